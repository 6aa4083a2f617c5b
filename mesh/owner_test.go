package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// oneOwner checks that whatever somebody holds, nobody else holds.
func oneOwner(t fataler, snap *Snapshot) {
	t.Helper()
	holders := map[string]string{}
	hold := func(what, id string) {
		t.Helper()
		if other, taken := holders[what]; taken && other != id {
			t.Fatalf("%s is held by %s and %s", what, other, id)
		}
		holders[what] = id
	}
	for _, n := range snap.Networks {
		if !snap.lost(KindNetwork, string(n.ID), n.Name) {
			hold("network name "+n.Name, string(n.ID))
		}
		if snap.Network(n.ID) == nil {
			continue
		}
		if !n.Bridged() {
			hold(fmt.Sprint("VNI ", n.VNI), string(n.ID))
		}
		if n.Ingress() {
			hold(fmt.Sprint("VNI ", n.EntryVNI), string(n.ID)+" entry")
		}
		for _, other := range snap.Networks {
			if snap.Network(other.ID) != nil && other.ID != n.ID && (other.Subnet4.Overlaps(n.Subnet4) || other.Subnet6.Overlaps(n.Subnet6)) {
				t.Fatalf("networks %s and %s overlap", n.ID, other.ID)
			}
		}
	}
	for _, s := range snap.Services {
		if !snap.lost(KindService, string(s.ID), s.Name) {
			hold("service name "+s.Name, string(s.ID))
		}
		for _, n := range snap.Networks {
			if a, ok := snap.Virtual(s.ID, n.ID); ok {
				hold("address "+a.V4.String(), string(s.ID))
				hold("address "+a.V6.String(), string(s.ID))
			}
		}
	}
	for _, e := range snap.Endpoints {
		if !snap.lost(KindEndpoint, string(e.ID), e.Name) {
			hold("endpoint name "+e.Name, string(e.ID))
		}
		for _, a := range e.Attached {
			where := ""
			if n := snap.Network(a.Network); n != nil && n.Bridged() {
				where = "on " + string(e.Node) + " " // only there
			}
			hold(where+"address "+a.V4.String(), string(e.ID))
			hold(where+"address "+a.V6.String(), string(e.ID))
		}
	}
	for _, n := range snap.Nodes {
		if n.Slot != 0 {
			hold(fmt.Sprint("slot ", n.Slot), string(n.ID))
		}
		for _, b := range n.Blocks {
			hold("block "+b.V4.String(), string(n.ID))
			hold("block "+b.V6.String(), string(n.ID))
			hold("address "+b.Gateway4().String(), "sandbox of "+string(n.ID))
			hold("address "+b.Gateway6().String(), "sandbox of "+string(n.ID))
		}
	}
	for i, f := range snap.Fronts {
		for _, g := range snap.Fronts[:i] {
			if f.Port.Overlaps(g.Port) && (f.Port.Mode != Hosted || g.Port.Mode != Hosted) {
				t.Fatalf("%s overlaps %s", f, g)
			}
		}
	}
}

// side is a part of a cluster that is cut off, and its nodes.
type side struct {
	*world
	nodes []int
}

// hosted lets a service publish for its nodes alone, which may need the default bridge.
func (s *side) hosted(t *rapid.T, service *Service, writer NodeID) {
	if rapid.IntRange(0, 2).Draw(t, "hosted") != 0 {
		return
	}
	p := &service.Publish[0]
	if p.Mode = Hosted; rapid.Bool().Draw(t, "ranged") {
		p.Target, p.Last = p.Published, p.Published+1
	}
	if snap := s.state.Snapshot(); snap.Network(DefaultBridge) == nil {
		n, err := NewDefaultBridge(snap)
		if err != nil {
			t.Fatalf("%v", err)
		}
		s.write(writer, NetworkRecord(n))
	}
}

// act does one thing that somebody on this side may ask for.
func (s *side) act(t *rapid.T, id int) {
	node := rapid.SampledFrom(s.nodes).Draw(t, "node")
	writer := testID[NodeID]('a', node)
	snap := s.state.Snapshot()
	few := func(label string) int { return rapid.IntRange(1, 3).Draw(t, label) }
	switch rapid.IntRange(0, 7).Draw(t, "act") {
	case 0:
		subnet := netip.Prefix{}
		if rapid.Bool().Draw(t, "chosen") {
			subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(few("subnet"))}), 21+few("longer"))
		}
		wish := NetworkWish{ID: testID[NetworkID]('b', id), Name: fmt.Sprintf("net%d", few("name"))}
		if wish.Driver = rapid.SampledFrom([]Driver{Overlay, Overlay, Bridge}).Draw(t, "driver"); subnet.IsValid() {
			wish.Subnets = []netip.Prefix{subnet}
		}
		if n, err := NewNetwork(snap, wish); err == nil {
			if subnet.IsValid() && !n.Bridged() {
				n.Bits4 = subnet.Bits() + 3 // seven blocks: sides choose the same
			}
			s.write(writer, NetworkRecord(n))
		}
	case 1, 2:
		service := testService(id, tcp(uint16(8000+few("port"))))
		service.Name = fmt.Sprintf("s%d", few("name"))
		s.hosted(t, service, writer)
		for _, n := range snap.Networks {
			if !n.Ingress() && rapid.Bool().Draw(t, "on it") {
				service.Networks = append(service.Networks, n.ID)
			}
		}
		service.Virtual, _ = snap.ChooseVirtual(service)
		s.write(writer, ServiceRecord(service))
	case 3, 4:
		if len(snap.Services) > 0 {
			e := testEndpoint(id, node, 1)
			e.Service = rapid.SampledFrom(snap.Services).Draw(t, "service").ID
			e.Name = fmt.Sprintf("e%d", few("name"))
			for _, n := range snap.Networks {
				if !n.Ingress() && rapid.IntRange(0, 3).Draw(t, "joins") == 0 {
					e.Joined = append(e.Joined, Joined{Network: n.ID})
				}
			}
			if e.Fixed = drawFixed(t, snap); snap.CheckFixed(e, s.time) != nil {
				return
			}
			s.write(writer, EndpointRecord(e))
		}
	case 5:
		if len(snap.Services) > 0 {
			gone := rapid.SampledFrom(snap.Services).Draw(t, "removed")
			s.write(writer, deleted(ServiceRecord(gone), 0))
		}
	case 6:
		if n := snap.Node(writer).clone(); n.Slot == 0 {
			n.Slot, n.SlotClaim = Slot(few("slot")), s.time
			s.write(writer, NodeRecord(n))
		}
	default:
		s.settle(writer)
	}
}

// Whatever is asked for on the sides of a split, with clocks that differ: when the sides have
// met and settled, in whatever order, each name, port, address, slot, block, subnet and VNI
// has one owner, all sides see the same, and it stays so.
func TestSplitsLeaveOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(2, 5).Draw(t, "nodes")
		start := newWorld(t, nodes)
		sides := make([]*side, rapid.IntRange(2, 3).Draw(t, "sides"))
		for i := range sides {
			skew := uint64(rapid.IntRange(0, 20).Draw(t, "clock"))
			sides[i] = &side{world: &world{t: t, state: *merged(start.state.Records()...), time: start.time + skew}}
		}
		for n := range nodes {
			sides[n%len(sides)].nodes = append(sides[n%len(sides)].nodes, n+1)
		}
		var records []Record
		for i, s := range sides {
			if len(s.nodes) == 0 {
				continue
			}
			for step := range rapid.IntRange(0, 12).Draw(t, "steps") {
				s.act(t, 100*(i+1)+step)
			}
			records = append(records, s.state.Records()...)
		}
		whole := &world{t: t, state: *merged(shuffled(t, records)...)}
		other := &world{t: t, state: *merged(shuffled(t, records)...)}
		if whole.state.Root() != other.state.Root() {
			t.Fatal("the sides differ after they have met")
		}
		for _, n := range whole.state.Snapshot().Nodes {
			a, refusedA := Settle(whole.state.Snapshot(), n.ID, 1000)
			b, refusedB := Settle(other.state.Snapshot(), n.ID, 1000)
			if diff := cmp.Diff(a, b, sameViews); diff != "" || len(refusedA) != len(refusedB) {
				t.Fatalf("what node %s does depends on the order in which it heard:\n%s", n.ID, diff)
			}
		}
		ids := rapid.Permutation(idsOf(whole.state.Snapshot())).Draw(t, "turns")
		for range 20 {
			changed := false
			for _, id := range ids {
				changed = whole.settle(id) || changed
			}
			if !changed {
				break
			}
		}
		oneOwner(t, whole.state.Snapshot())
		before := whole.state.Root()
		if whole.settleAll(); whole.state.Root() != before {
			t.Fatal("settling does not end")
		}
	})
}

func idsOf(snap *Snapshot) []NodeID {
	ids := make([]NodeID, len(snap.Nodes))
	for i, n := range snap.Nodes {
		ids[i] = n.ID
	}
	slices.Sort(ids)
	return ids
}

// Each claim that lost names a winner that holds it by an older claim.
func TestWinnersAreOlder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := merged(drawRecords(t)...)
		for _, c := range s.Snapshot().Conflicts {
			loser, ok := s.Get(Key{c.Kind, c.ID})
			winner, there := s.Get(Key{c.WinnerKind(), c.Winner})
			if !ok || !there || loser.Deleted || winner.Deleted {
				t.Fatalf("%+v", c)
			}
			if c.Kind == KindNode {
				continue // its claims are in the record, and have times of their own
			}
			if older := winner.Claim < loser.Claim || winner.Claim == loser.Claim && winner.ID < loser.ID; !older {
				t.Fatalf("%+v: claims of %d and %d", c, winner.Claim, loser.Claim)
			}
		}
	})
}
