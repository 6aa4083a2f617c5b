package gossip

import (
	"fmt"
	"io"
	"log"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// serfLike is a member as Debian's serf agent is one: its own names, metadata, versions and
// messages, and the cluster's key.
type serfLike struct {
	list *memberlist.Memberlist

	mu    sync.Mutex
	heard [][]byte
}

func (s *serfLike) NodeMeta(int) []byte               { return []byte{255, 0x80} }
func (s *serfLike) GetBroadcasts(int, int) [][]byte   { return nil }
func (s *serfLike) LocalState(bool) []byte            { return []byte{2, 0x85, 1, 2, 3} }
func (s *serfLike) MergeRemoteState(b []byte, _ bool) { s.hear(b) }
func (s *serfLike) NotifyMsg(b []byte)                { s.hear(b) }

func (s *serfLike) hear(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard, slices.Clone(b))
}

func startSerf(t *testing.T, name string, secret []byte) *serfLike {
	t.Helper()
	s := &serfLike{}
	at := freePort(t, 9)
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort = name, at.Addr().String(), int(at.Port()), int(at.Port())
	c.SecretKey, c.Delegate, c.Logger = secret, s, log.New(io.Discard, "", 0)
	c.DelegateProtocolMin, c.DelegateProtocolMax, c.DelegateProtocolVersion = 2, 5, 4
	var err error
	if s.list, err = memberlist.Create(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.list.Shutdown() })
	return s
}

func TestForeignMember(t *testing.T) {
	nodes := cluster(t, 2)
	s := startSerf(t, "debian-host.example", key(1))
	if n, err := s.list.Join([]string{nodes[0].addr.String()}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	within(t, 5*time.Second, "it sees all nodes", func() bool { return s.list.NumMembers() == 3 })
	within(t, 5*time.Second, "all nodes' memberlists have it", func() bool { return nodes[1].list.NumMembers() == 3 })
	for i := range 300 {
		nodes[i%2].write(service(i))
	}
	// From it, as serf does; and what looks like our own, badly.
	for _, msg := range [][]byte{{0, 1}, {1, 0x82, 1}, {2, 0x83}, {3}, {wireVersion, '{'}} {
		for _, m := range s.list.Members() {
			if m.Name != "debian-host.example" {
				s.list.SendReliable(m, msg)
			}
		}
	}
	within(t, 10*time.Second, "records reach the nodes", func() bool { return nodes[0].Count() == 300 && same(nodes) })
	time.Sleep(time.Second)
	for _, n := range nodes {
		if got := n.Members(); len(got) != 2 {
			t.Errorf("members %v", got)
		}
		if _, told := n.isAlive("debian-host.example"); told {
			t.Error("State was told of it")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heard) != 0 {
		t.Errorf("it was told %d things, first %.60q", len(s.heard), s.heard[0])
	}
}

func TestStrangersDoNotGetIn(t *testing.T) {
	n := startNode(t, 1, key(1))
	n.write(service(1))
	for name, s := range map[string]*serfLike{
		"without the key":   startSerf(t, "other", nil),
		"another key":       startSerf(t, "other", key(2)),
		"a name of no sort": startSerf(t, "x\ny; rm -rf /", key(1)),
	} {
		t.Run(name, func(t *testing.T) {
			s.list.Join([]string{n.addr.String()})
			time.Sleep(300 * time.Millisecond)
			s.mu.Lock()
			defer s.mu.Unlock()
			if n.list.NumMembers() != 1 || len(s.heard) != 0 {
				t.Errorf("%d members, it heard %q", n.list.NumMembers(), s.heard)
			}
		})
	}
}

// Who has the key can make members up; memory and probes stay bounded.
func TestForgedMembers(t *testing.T) {
	m := newMembers(nodeID(1))
	forged := func(name, meta string) *memberlist.Node {
		return &memberlist.Node{Name: name, Meta: []byte(meta), Addr: []byte{192, 0, 2, 1}, Port: 7956}
	}
	taken := 0
	for i := range 10_000 {
		for _, n := range []*memberlist.Node{forged(string(nodeID(i+2)), memberMark), forged(fmt.Sprintf("host-%d", i), "")} {
			if m.NotifyAlive(n) == nil {
				m.NotifyJoin(n)
				taken++
			}
		}
	}
	if taken != memberLimit+foreignLimit {
		t.Errorf("%d were taken", taken)
	}
	last := forged(string(nodeID(9_999)), memberMark)
	if err := m.NotifyAlive(last); mesh.ReasonOf(err) != TooManyMembers {
		t.Error(err)
	}
	if err := m.NotifyAlive(forged(string(nodeID(2)), memberMark)); err != nil {
		t.Error("one that is known is refused:", err)
	}
	m.expect([]mesh.NodeID{nodeID(9_999)})
	if err := m.NotifyAlive(last); err != nil {
		t.Error("a node of the records is kept out:", err)
	}
	m.expect(nil)
	m.NotifyLeave(forged(string(nodeID(2)), memberMark))
	if err := m.NotifyAlive(last); err != nil {
		t.Error("there is room, and yet:", err)
	}
}

// A node that is one no longer, by its metadata, is told to be silent.
func TestNodeTurnsForeign(t *testing.T) {
	m := newMembers(nodeID(1))
	state := newMemory()
	n := &memberlist.Node{Name: string(nodeID(2)), Meta: []byte("sluice/2"), Addr: []byte{192, 0, 2, 1}}
	m.NotifyJoin(n)
	m.tell(state)
	if alive, told := state.isAlive(nodeID(2)); !alive || !told {
		t.Error("a node of a later version is no node")
	}
	n.Meta = []byte{255}
	m.NotifyUpdate(n)
	m.tell(state)
	if alive, _ := state.isAlive(nodeID(2)); alive {
		t.Error("State holds it to be alive")
	}
}

// Who has but the key of gossip fills a cluster with members that there are none of, and waits
// until a node restarts: it gets in all the same, and knows the others.
func TestInventedMembersKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(3 * time.Minute) // memberlist's probes run on after Close
		network := newMemnet()
		knows := func(others ...int) func(*Config) {
			return func(c *Config) {
				m, ok := c.State.(*memory)
				for _, n := range others {
					m.nodes, m.peers = append(m.nodes, nodeID(n)), append(m.peers, memAddr(n))
				}
				if !ok {
					t.Fatal("another State")
				}
			}
		}
		first := startIn(t, network, 1, knows(2))
		defer first.Close()
		for i := range memberLimit {
			n := &memberlist.Node{Name: string(nodeID(100 + i)), Meta: newStay().meta(), Addr: []byte{10, 1, 0, 1}, Port: 1}
			if err := first.members.NotifyAlive(n); err != nil {
				t.Fatal(err)
			}
			first.members.NotifyJoin(n)
		}
		second := startIn(t, network, 2, knows(1))
		defer second.Close()
		time.Sleep(5 * time.Second)
		if first.members.get(second.id) == nil || second.members.get(first.id) == nil {
			t.Error("a node that the records know is kept out")
		}
	})
}
