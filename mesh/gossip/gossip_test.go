package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a State as the agent has one.
type memory struct {
	mu     sync.Mutex
	state  mesh.State
	alive  map[mesh.NodeID]bool
	peers  []netip.AddrPort
	nodes  []mesh.NodeID
	met    map[mesh.NodeID]uint64
	merges int
	refuse func(mesh.Record) bool // may be nil
	over   []mesh.Over
}

func (m *memory) Root() mesh.Sum { return locked(m, m.state.Root) }
func (m *memory) Count() int     { return locked(m, m.state.Count) }

func (m *memory) Buckets() [mesh.BucketCount]mesh.Sum { return locked(m, m.state.Buckets) }

func (m *memory) Heads(bucket uint8) []mesh.Head {
	return locked(m, func() []mesh.Head { return m.state.Heads(bucket) })
}

func (m *memory) Select(keys []mesh.Key) []mesh.Record {
	return locked(m, func() []mesh.Record {
		var records []mesh.Record
		for _, k := range keys {
			if r, ok := m.state.Get(k); ok {
				records = append(records, r)
			}
		}
		return records
	})
}

func (m *memory) Now() uint64 { return locked(m, func() uint64 { return m.state.Now(0) }) }

func (m *memory) Met(id mesh.NodeID, until uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.met[id] = until
}

func locked[T any](m *memory, f func() T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f()
}

func (m *memory) Merge(records []mesh.Record) []mesh.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.merges++
	return slices.DeleteFunc(slices.Clone(records), func(r mesh.Record) bool {
		return m.refuse != nil && m.refuse(r) || !m.state.Merge(r)
	})
}

func (m *memory) MemberAlive(id mesh.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[id] = true
}

func (m *memory) FlowsOver(over mesh.Over) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = append(m.over, over)
}

func (m *memory) MemberSilent(id mesh.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive[id] = false
}

func (m *memory) Peers() []netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.peers)
}

func (m *memory) Nodes() []mesh.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.nodes)
}

func (m *memory) get(k mesh.Key) (mesh.Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Get(k)
}

func (m *memory) isAlive(id mesh.NodeID) (alive, told bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	alive, told = m.alive[id]
	return alive, told
}

type node struct {
	*Gossip
	*memory
	id   mesh.NodeID
	addr netip.AddrPort
	time uint64
}

func nodeID(n int) mesh.NodeID { return mesh.NodeID(fmt.Sprintf("a%0*x", mesh.IDLength-1, n)) }

func key(seed byte) []byte { return slices.Repeat([]byte{seed}, KeySize) }

// freePort asks the kernel for a port that is free for UDP and TCP on one loopback address.
func freePort(t *testing.T, n int) netip.AddrPort {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{127, 0, 0, byte(n)})
	for range 20 {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		if err != nil {
			t.Fatal(err)
		}
		free := netip.MustParseAddrPort(l.Addr().String())
		l.Close()
		if u, err := (host{}).ListenPacket(free); err == nil {
			u.Close()
			return free
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

func startNode(t *testing.T, n int, secret []byte) *node {
	t.Helper()
	return startAt(t, n, freePort(t, n), secret)
}

func startAt(t *testing.T, n int, addr netip.AddrPort, secret []byte, peers ...netip.AddrPort) *node {
	t.Helper()
	m := newMemory()
	m.peers = peers
	g, err := Start(Config{ID: nodeID(n), Bind: addr, Key: secret, State: m, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return &node{Gossip: g, memory: m, id: nodeID(n), addr: addr}
}

// write makes a record of the node's own and sends it, as the agent does.
func (n *node) write(r mesh.Record) mesh.Record {
	n.time++
	r.Version, r.Claim = mesh.Version{Time: n.time, Writer: n.id}, 1
	r, err := Seal(r, mesh.Record{}, nil)
	if err != nil {
		panic(err) // a test's own record
	}
	n.Merge([]mesh.Record{r})
	n.Send(r)
	return r
}

func service(n int, ports ...mesh.PublishedPort) mesh.Record {
	return mesh.ServiceRecord(&mesh.Service{
		ID: mesh.ServiceID(fmt.Sprintf("c%0*x", mesh.IDLength-1, n)), Name: fmt.Sprintf("s%d", n),
		Publish: ports, Scheduler: mesh.RoundRobin,
	})
}

// within polls, because what is awaited happens on another node.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

func cluster(t *testing.T, size int) []*node {
	t.Helper()
	nodes := make([]*node, size)
	for i := range nodes {
		nodes[i] = startNode(t, i+1, key(1))
	}
	for _, n := range nodes[1:] {
		if got, err := n.Join(t.Context(), n.addr, nodes[0].addr); got != 1 || err != nil {
			t.Fatalf("join: %d, %v", got, err)
		}
	}
	for _, n := range nodes {
		within(t, 5*time.Second, "all are members", func() bool { return len(n.Members()) == size })
	}
	return nodes
}

func hasVersion(n *node, r mesh.Record) func() bool {
	return func() bool {
		have, ok := n.get(r.Key())
		return ok && have.Version == r.Version && have.Deleted == r.Deleted
	}
}

func TestRecordsReachAll(t *testing.T) {
	nodes := cluster(t, 3)
	want := []mesh.NodeID{nodeID(1), nodeID(2), nodeID(3)}
	if got := nodes[1].Members(); !slices.Equal(got, want) {
		t.Errorf("members %v, want %v", got, want)
	}
	within(t, time.Second, "state was told of the members", func() bool { alive, _ := nodes[0].isAlive(nodeID(3)); return alive })

	small := nodes[0].write(service(1))
	var ports []mesh.PublishedPort
	for i := range uint16(200) {
		ports = append(ports, mesh.PublishedPort{Proto: mesh.TCP, Published: 8000 + i, Target: 80})
	}
	big := nodes[1].write(service(2, ports...))
	if line, err := Encode(big); err != nil || len(line) < packetBytes {
		t.Fatalf("the big record has %d bytes, %v", len(line), err)
	}
	for _, n := range nodes {
		// Not much longer than a lost packet takes to be made up for.
		within(t, entropyPeriod, "small record", hasVersion(n, small))
		within(t, entropyPeriod, "big record", hasVersion(n, big))
	}
	gone := small
	gone.Service, gone.Deleted = nil, true
	gone = nodes[0].write(gone)
	for _, n := range nodes {
		within(t, entropyPeriod, "tombstone", hasVersion(n, gone))
	}
}

func TestBurst(t *testing.T) {
	nodes := cluster(t, 2)
	for i := range 1000 {
		nodes[0].write(service(i))
	}
	within(t, 10*time.Second, "1000 records arrive", func() bool { return nodes[1].Count() == 1000 })
}

func TestJoinBringsState(t *testing.T) {
	a := startNode(t, 1, key(1))
	r := a.write(service(1))
	b := startNode(t, 2, key(1))
	if _, err := b.Join(t.Context(), a.addr); err != nil {
		t.Fatal(err)
	}
	if !hasVersion(b, r)() {
		t.Error("the seed's record is not there when Join returns")
	}
}

func TestJoinRefusals(t *testing.T) {
	a := startNode(t, 1, key(1))
	other := startNode(t, 2, key(2))
	nobody := freePort(t, 3)
	for _, c := range []struct {
		name string
		seed netip.AddrPort
		want mesh.Reason
	}{
		{"another key", a.addr, WrongSecret},
		{"nobody there", nobody, Unreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := other.Join(t.Context(), c.seed)
			if n != 0 || mesh.ReasonOf(err) != c.want {
				t.Fatalf("got %d, %q: %v", n, mesh.ReasonOf(err), err)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
	if len(a.Members()) != 1 || len(other.Members()) != 1 {
		t.Error("a node with another key became a member")
	}
	if n, err := other.Join(t.Context()); n != 0 || err != nil {
		t.Errorf("no seed: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := other.Join(ctx, a.addr); err == nil {
		t.Error("joined with a context that has ended")
	}
}

func TestStartRefusals(t *testing.T) {
	a := startNode(t, 1, key(1))
	good := Config{ID: nodeID(2), Bind: freePort(t, 2), Key: key(1), State: &memory{}, Log: slog.New(slog.DiscardHandler)}
	for _, c := range []struct {
		name string
		edit func(*Config)
		want mesh.Reason
	}{
		{"port in use", func(c *Config) { c.Bind = a.addr }, PortInUse},
		{"not our address", func(c *Config) { c.Bind = netip.MustParseAddrPort("192.0.2.1:7956") }, mesh.BadAddress},
		{"any address", func(c *Config) { c.Bind = netip.MustParseAddrPort("0.0.0.0:7956") }, mesh.BadAddress},
		{"no port", func(c *Config) { c.Bind = netip.MustParseAddrPort("127.0.0.1:0") }, mesh.BadAddress},
		{"no address", func(c *Config) { c.Bind = netip.AddrPort{} }, mesh.BadAddress},
		{"no ID", func(c *Config) { c.ID = "" }, mesh.BadRecord},
		{"short key", func(c *Config) { c.Key = c.Key[:16] }, mesh.BadValue},
		{"no state", func(c *Config) { c.State = nil }, mesh.BadValue},
		{"no period", func(c *Config) { c.Detection = Detection{Suspicion: 3, Doubt: 2} }, mesh.BadValue},
		{"no doubt", func(c *Config) { c.Detection = Fast(); c.Detection.Doubt = 0 }, mesh.BadValue},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			c.edit(&cfg)
			g, err := Start(cfg)
			if mesh.ReasonOf(err) != c.want {
				t.Errorf("reason %q: %v", mesh.ReasonOf(err), err)
			}
			if g != nil {
				t.Error("and yet it runs")
			}
		})
	}
}

func TestDeathIsSeen(t *testing.T) {
	nodes := cluster(t, 3)
	if err := nodes[2].Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes[:2] {
		within(t, 10*time.Second, "the dead node is no member", func() bool { return !slices.Contains(n.Members(), nodeID(3)) })
		within(t, time.Second, "state was told", func() bool { alive, told := n.isAlive(nodeID(3)); return told && !alive })
	}
}

func TestLeave(t *testing.T) {
	nodes := cluster(t, 2)
	last := service(1)
	last.Version, last.Claim = mesh.Version{Time: 1, Writer: nodes[1].id}, 1
	nodes[1].Send(last)
	if err := nodes[1].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	within(t, time.Second, "the node that left is no member", func() bool { return len(nodes[0].Members()) == 1 })
	within(t, time.Second, "what it sent last", hasVersion(nodes[0], last))
	if err := nodes[1].Close(); err != nil {
		t.Fatal(err)
	}
	if err := nodes[1].Leave(t.Context()); mesh.ReasonOf(err) != Closed {
		t.Errorf("leave after close: %v", err)
	}
	if _, err := nodes[1].Join(t.Context(), nodes[0].addr); mesh.ReasonOf(err) != Closed {
		t.Errorf("join after close: %v", err)
	}
	nodes[1].Send(last)
}

// Nobody calls Join: the peers of the state are enough. Afterwards the node comes
// back with another address.
func TestRejoin(t *testing.T) {
	a := startNode(t, 1, key(1))
	b := startAt(t, 2, freePort(t, 2), key(1), a.addr)
	within(t, 3*rejoinPeriod, "peer is rejoined", func() bool { return len(a.Members()) == 2 && len(b.Members()) == 2 })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	moved := startAt(t, 2, freePort(t, 3), key(1), a.addr)
	within(t, 20*time.Second, "the node is a member at its new address", func() bool { return a.members.at(moved.addr) })
}

// A name that is no node ID is refused, whatever else is right.
func TestMemberNames(t *testing.T) {
	a := startNode(t, 1, key(1))
	b := startNode(t, 2, key(1))
	b.members.self = "b; rm -rf /"
	settings := b.settings(Config{ID: "b; rm -rf /", Bind: b.addr, Key: key(1)}, nil)
	if err := settings.Alive.NotifyAlive(a.list.LocalNode()); err != nil {
		t.Error(err)
	}
	bad := *a.list.LocalNode()
	bad.Name = settings.Name
	if err := settings.Alive.NotifyAlive(&bad); mesh.ReasonOf(err) != mesh.BadRecord {
		t.Errorf("name %q: %v", bad.Name, err)
	}
}

func TestCloseTwice(t *testing.T) {
	a := startNode(t, 1, key(1))
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
