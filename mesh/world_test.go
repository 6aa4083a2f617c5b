package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func testID[T ~string](kind byte, n int) T { return T(fmt.Sprintf("%c%0*x", kind, IDLength-1, n)) }

func testNode(n int) *Node {
	return &Node{
		ID: testID[NodeID]('a', n), Name: fmt.Sprintf("n%d", n), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}),
		VXLANPort: 4789, MTU: 1500,
	}
}

func testService(n int, ports ...PublishedPort) *Service {
	return &Service{ID: testID[ServiceID]('c', n), Name: fmt.Sprintf("s%d", n), Publish: ports, Scheduler: RoundRobin}
}

func testEndpoint(n, node, service int) *Endpoint {
	return &Endpoint{
		ID: testID[EndpointID]('e', n), Name: fmt.Sprintf("e%d", n), Service: testID[ServiceID]('c', service),
		Node: testID[NodeID]('a', node), State: Ready, Weight: 1,
	}
}

func tcp(published uint16) PublishedPort {
	return PublishedPort{Proto: TCP, Published: published, Target: 80}
}

// stamped gives a record the version and claim of its first write.
func stamped(r Record, time uint64, writer NodeID) Record {
	r.Version, r.Claim = Version{Time: time, Writer: writer}, time
	return r
}

func deleted(r Record, time uint64) Record {
	r.Node, r.Network, r.Service, r.Endpoint, r.Deleted = nil, nil, nil, nil, true
	r.Version.Time = time
	return r
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world is one view of a cluster and a clock.
type world struct {
	t     fataler
	state State
	time  uint64
}

func newWorld(t fataler, nodes int) *world {
	w := &world{t: t}
	w.write(testID[NodeID]('a', 1), NetworkRecord(NewIngress(DefaultIngress(), DefaultPool(), 7)))
	for n := range nodes {
		w.write(testID[NodeID]('a', n+1), NodeRecord(testNode(n+1)))
	}
	return w
}

// write does what an agent does with a record that it makes.
func (w *world) write(writer NodeID, r Record) {
	w.t.Helper()
	w.time = Tick(max(w.time, w.state.Seen()), 0)
	r = stamped(r, w.time, writer)
	if have, ok := w.state.Get(r.Key()); ok {
		r.Claim = have.Claim
	}
	if err := r.Validate(); err != nil {
		w.t.Fatalf("%s %s: %v", r.Kind, r.ID, err)
	}
	w.state.Merge(r)
}

// settle lets one node write what Settle says, and tells whether it said anything.
func (w *world) settle(id NodeID) bool {
	w.t.Helper()
	w.time++
	records, _ := Settle(w.state.Snapshot(), id, w.time)
	for _, r := range records {
		w.write(id, r)
	}
	return len(records) > 0
}

func (w *world) settleAll() {
	w.t.Helper()
	for range 20 {
		changed := false
		for _, n := range w.state.Snapshot().Nodes {
			changed = w.settle(n.ID) || changed
		}
		if !changed {
			return
		}
	}
	w.t.Fatalf("not settled after 20 rounds")
}

// drawRecords are records as honest and careless nodes write them: few IDs, names, ports
// and times, so that they meet, even with one version for two contents.
func drawRecords(t *rapid.T) []Record {
	few := func(label string) int { return rapid.IntRange(1, 4).Draw(t, label) }
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Record {
		var r Record
		claim := uint64(few("claim"))
		time := claim + uint64(few("time"))
		writer := testID[NodeID]('a', few("writer"))
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			n := testNode(few("node"))
			n.Slot, n.SlotClaim, writer = Slot(few("slot")), min(uint64(few("slot claim")), time), n.ID
			for range rapid.IntRange(0, 2).Draw(t, "blocks") {
				b := NewIngress(DefaultIngress(), DefaultPool(), 7).block(few("block"))
				b.Claim = min(uint64(few("block claim")), time)
				n.Blocks = append(n.Blocks, b)
			}
			n.Held = drawHeld(t)
			r = NodeRecord(n)
		case 1:
			n := NewIngress(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(few("subnet"))}), 16), DefaultPool(), uint64(few("seed")))
			n.ID, n.Name, n.EntryVNI, n.Pool = testID[NetworkID]('b', few("network")), fmt.Sprintf("net%d", few("name")), 0, netip.Prefix{}
			n.VNI += VNI(few("vni"))
			r = NetworkRecord(n)
		case 2:
			s := testService(few("service"), tcp(uint16(few("port"))))
			s.Name = fmt.Sprintf("s%d", few("name"))
			if rapid.Bool().Draw(t, "on one address") {
				s.Publish[0].Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(few("addr"))})
			}
			if p := &s.Publish[0]; rapid.Bool().Draw(t, "hosted") {
				if p.Mode = Hosted; rapid.Bool().Draw(t, "ranged") {
					p.Target, p.Last = p.Published, p.Published+uint16(few("longer"))
				}
			}
			r = ServiceRecord(s)
		default:
			e := testEndpoint(few("endpoint"), few("node"), few("service"))
			writer = e.Node
			r = EndpointRecord(e)
		}
		if rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
			r = deleted(r, 0)
		}
		r.Claim, r.Version = claim, Version{Time: time, Writer: writer}
		if err := r.Validate(); err != nil {
			t.Fatalf("%v", err)
		}
		r = encoded(t, r)
		if rapid.Bool().Draw(t, "signed") {
			r.Sig = []byte{byte(few("signature"))}
		}
		return r
	}), 0, 12).Draw(t, "records")
}

// encoded gives a record bytes of its own.
func encoded(t fataler, r Record) Record {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatalf("%v", err)
	}
	r.Body = text
	return r
}

func merged(records ...Record) *State {
	var s State
	for _, r := range records {
		s.Merge(r)
	}
	s.Expire()
	return &s
}

func shuffled[T any](t *rapid.T, list []T) []T {
	return rapid.Permutation(slices.Clone(list)).Draw(t, "order")
}

var _ fataler = (*testing.T)(nil)

// newOverlay is an overlay with that IPv4 subnet, or with a chosen one.
func newOverlay(snap *Snapshot, id NetworkID, name string, subnet4 netip.Prefix) (*Network, error) {
	wish := NetworkWish{ID: id, Name: name}
	if subnet4.IsValid() {
		wish.Subnets = []netip.Prefix{subnet4}
	}
	return NewNetwork(snap, wish)
}
