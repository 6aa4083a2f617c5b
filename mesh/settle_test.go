package mesh

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawWorld has some nodes, two user networks, services and endpoints, not yet settled.
func drawWorld(t *rapid.T) *world {
	nodes := rapid.IntRange(1, 5).Draw(t, "nodes")
	w := newWorld(t, nodes)
	writer := testID[NodeID]('a', 1)
	var nets []NetworkID
	for i, name := range []string{"blue", "green"} {
		// Small ones: 15 blocks of 4 addresses.
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i+1), name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 24))
		if err != nil {
			t.Fatalf("%v", err)
		}
		n.Bits4 = 30
		w.write(writer, NetworkRecord(n))
		nets = append(nets, n.ID)
	}
	for i := range 3 {
		s := testService(i + 1)
		if rapid.Bool().Draw(t, "published") {
			s.Publish = []PublishedPort{tcp(uint16(8000 + i))}
		}
		s.Networks = rapid.SliceOfDistinct(rapid.SampledFrom(nets), func(n NetworkID) NetworkID { return n }).Draw(t, "networks")
		w.write(writer, ServiceRecord(s))
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "endpoints") {
		e := testEndpoint(i+1, rapid.IntRange(1, nodes).Draw(t, "on"), rapid.IntRange(1, 4).Draw(t, "of")) // service 4 does not exist
		e.Fixed = drawFixed(t, w.state.Snapshot())
		w.write(e.Node, EndpointRecord(e))
	}
	return w
}

// drawFixed are addresses that somebody asks for: often none, and of few so that they meet. Some
// nobody can have.
func drawFixed(t *rapid.T, snap *Snapshot) []netip.Addr {
	if rapid.IntRange(0, 2).Draw(t, "asks") != 0 {
		return nil
	}
	var fixed []netip.Addr
	for _, n := range snap.Networks {
		if n.Bridged() {
			if rapid.IntRange(0, 3).Draw(t, "asks here") == 0 {
				fixed = append(fixed, nthHost(n.Subnet4, uint64(rapid.IntRange(0, 5).Draw(t, "number"))))
			}
			continue
		}
		v4, v6 := n.block(rapid.IntRange(0, 2).Draw(t, "block")).address(rapid.IntRange(0, 3).Draw(t, "number"))
		switch rapid.IntRange(0, 3).Draw(t, "family") {
		case 0:
			fixed = append(fixed, v4)
		case 1:
			fixed = append(fixed, v6)
		case 2:
			fixed = append(fixed, v4, v6)
		}
	}
	slices.SortFunc(fixed, netip.Addr.Compare)
	return slices.Compact(fixed)
}

// asMuch checks that an endpoint has what it asks for, or nothing where its node refuses it.
func asMuch(t fataler, snap *Snapshot, e *Endpoint) {
	t.Helper()
	_, refused := Settle(snap, e.Node, 1)
	service := snap.Service(e.Service)
	networks := slices.DeleteFunc(e.Networks(service), func(id NetworkID) bool { return snap.Network(id) == nil })
	if (len(e.Attached) != len(networks)) != (refused[e.ID] != nil) {
		t.Fatalf("endpoint %s is on %v instead of %v, refused %v", e.ID, e.Attached, networks, refused[e.ID])
	}
	for _, a := range e.Attached {
		for _, asked := range snap.asked(e, a.Network) {
			if asked.addr != a.V4 && asked.addr != a.V6 {
				t.Fatalf("endpoint %s asked for %s and has %s and %s", e.ID, asked.addr, a.V4, a.V6)
			}
		}
	}
	if (snap.Unmet(e) != nil) && refused[e.ID] == nil {
		t.Fatalf("endpoint %s has what it asks for, and others see %v", e.ID, snap.Unmet(e))
	}
}

// settled checks what must be true once nobody has anything to write.
func settled(t fataler, snap *Snapshot) {
	t.Helper()
	onlyOne(t, snap)
	addresses := map[netip.Addr]EndpointID{}
	for _, e := range snap.Endpoints {
		node, service := snap.Node(e.Node), snap.Service(e.Service)
		if service == nil || node == nil || node.Slot == 0 {
			t.Fatalf("endpoint %s has service %v, node %v", e.ID, service, node)
		}
		asMuch(t, snap, e)
		for _, a := range e.Attached {
			owned := slices.ContainsFunc(node.BlocksOf(a.Network), func(b Block) bool {
				return b.V4.Contains(a.V4) && b.V6.Contains(a.V6) && a.V4 != b.Gateway4() && a.V6 != b.Gateway6()
			})
			if !owned {
				t.Fatalf("endpoint %s has %s, its node has %v", e.ID, a.V4, node.Blocks)
			}
			for _, addr := range []netip.Addr{a.V4, a.V6} {
				if other, taken := addresses[addr]; taken {
					t.Fatalf("%s belongs to %s and %s", addr, e.ID, other)
				}
				addresses[addr] = e.ID
			}
		}
	}
	if len(snap.written) != 0 {
		t.Fatalf("a node claims what it does not hold")
	}
}

func TestSettleConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		// Nodes speak in any order, some more often than others; then in turns.
		ids := make([]NodeID, 0, 5)
		for _, n := range w.state.Snapshot().Nodes {
			ids = append(ids, n.ID)
		}
		for range rapid.IntRange(0, 6).Draw(t, "early") {
			w.settle(rapid.SampledFrom(ids).Draw(t, "speaks"))
		}
		w.settleAll()
		settled(t, w.state.Snapshot())

		// Nothing changes by asking again, nor by starting again from the records.
		before := w.state.Records()
		again := &world{t: t, state: *merged(shuffled(t, before)...), time: w.time + 1000}
		again.settleAll()
		if diff := cmp.Diff(before, again.state.Records(), sameViews); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Two halves that settled apart meet: each claim has one holder again, and the
// older one keeps it.
func TestSettleHealsSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		snap := w.state.Snapshot()
		cut := rapid.IntRange(0, len(snap.Nodes)).Draw(t, "cut")
		halves := [2]*world{}
		for i := range halves {
			halves[i] = &world{t: t, state: *merged(w.state.Records()...), time: w.time + uint64(rapid.IntRange(0, 50).Draw(t, "clock"))}
		}
		for round := range 3 {
			for i, n := range snap.Nodes {
				half := halves[0]
				if i >= cut {
					half = halves[1]
				}
				e := testEndpoint(100+10*round+i, i+1, 1)
				half.write(n.ID, EndpointRecord(e))
				half.settle(n.ID)
			}
		}
		both := &world{t: t, state: *merged(append(halves[0].state.Records(), halves[1].state.Records()...)...), time: max(halves[0].time, halves[1].time)}
		met := both.state.Snapshot()
		onlyOne(t, met)
		both.settleAll()
		after := both.state.Snapshot()
		settled(t, after)
		for _, n := range met.Nodes {
			if now := after.Node(n.ID); n.Slot != 0 && now.Slot != n.Slot {
				t.Fatalf("%s held slot %d and has %d", n.ID, n.Slot, now.Slot)
			}
		}
	})
}

func TestSettleGivesUpTheYoungerClaim(t *testing.T) {
	w := newWorld(t, 2)
	w.write(testID[NodeID]('a', 1), ServiceRecord(testService(1, tcp(80))))
	block := w.state.Snapshot().Network(IngressNetwork).block(5)
	w.time = 10
	for n, claim := range map[int]uint64{1: 7, 2: 3} {
		node := testNode(n)
		b := block
		b.Claim = claim
		node.Slot, node.SlotClaim, node.Blocks = 9, claim, []Block{b}
		w.write(node.ID, NodeRecord(node))
		e := testEndpoint(n, n, 1)
		v4, v6 := b.address(3)
		e.Attached = []Attachment{{IngressNetwork, v4, v6}}
		w.write(node.ID, EndpointRecord(e))
	}
	loser, winner := string(testID[NodeID]('a', 1)), string(testID[NodeID]('a', 2))
	want := []Conflict{
		{Kind: KindNode, ID: loser, Claim: "slot 9", Winner: winner, Reason: SlotTaken},
		{Kind: KindNode, ID: loser, Claim: "block " + block.V4.String(), Winner: winner, Reason: BlockTaken},
	}
	if diff := cmp.Diff(want, w.state.Snapshot().Conflicts); diff != "" {
		t.Error(diff)
	}
	w.settleAll()
	snap := w.state.Snapshot()
	settled(t, snap)
	if len(snap.Conflicts) != 0 {
		t.Errorf("conflicts remain: %v", snap.Conflicts)
	}
	first, second := snap.Node(testID[NodeID]('a', 1)), snap.Node(testID[NodeID]('a', 2))
	if second.Slot != 9 || second.Blocks[0].V4 != block.V4 || second.Blocks[0].Claim != 3 {
		t.Errorf("the older claim moved: %+v", second)
	}
	if first.Slot == 9 || first.Blocks[0].V4 == block.V4 {
		t.Errorf("the younger claim stays: %+v", first)
	}
}

// A claim that lost is taken out of the record, even where nothing comes in its place:
// it would come back when the winner goes.
func TestSettleForgetsLostClaims(t *testing.T) {
	w := newWorld(t, 2)
	w.settleAll()
	snap := w.state.Snapshot()
	for n, claim := range map[int]uint64{1: 7, 2: 3} {
		node := snap.Node(testID[NodeID]('a', n)).clone()
		node.Blocks = []Block{snap.Network(IngressNetwork).block(5)}
		node.Blocks[0].Claim = claim
		w.write(node.ID, NodeRecord(node))
	}
	if len(w.state.Snapshot().written) == 0 {
		t.Fatal("both hold the block")
	}
	w.settle(testID[NodeID]('a', 1))
	if r, ok := w.state.Get(Key{KindNode, string(testID[NodeID]('a', 1))}); !ok || len(r.Node.Blocks) != 0 {
		t.Errorf("the record still claims %v", r.Node.Blocks)
	}
}

// Two endpoints of one node on one address are parted, the other one keeps its own.
func TestSettlePartsOneAddress(t *testing.T) {
	w := newWorld(t, 1)
	w.write(testID[NodeID]('a', 1), ServiceRecord(testService(1, tcp(80))))
	w.write(testID[NodeID]('a', 1), EndpointRecord(testEndpoint(1, 1, 1)))
	w.settleAll()
	twin := testEndpoint(2, 1, 1)
	twin.Attached = w.state.Snapshot().EndpointNamed("e1").Attached
	w.write(twin.Node, EndpointRecord(twin))
	w.settleAll()
	settled(t, w.state.Snapshot())
}

func TestSettleWithoutRoom(t *testing.T) {
	w := newWorld(t, 1)
	a := testID[NodeID]('a', 1)
	n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "tiny", netip.MustParsePrefix("10.0.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(a, NetworkRecord(n)) // blocks of /26: 3 with 63 addresses each
	s := testService(1)
	s.Networks = []NetworkID{n.ID}
	w.write(a, ServiceRecord(s))
	const room = 3 * 63
	for i := range room + 2 {
		w.write(a, EndpointRecord(testEndpoint(i+1, 1, 1)))
	}
	w.settleAll()
	_, refused := Settle(w.state.Snapshot(), a, w.time)
	if len(refused) != 2 {
		t.Errorf("%d refused", len(refused))
	}
	for _, err := range refused {
		if ReasonOf(err) != PoolExhausted {
			t.Error(err)
		}
	}
}

func TestSettleUnknownNode(t *testing.T) {
	records, refused := Settle(new(State).Snapshot(), testID[NodeID]('a', 1), 1)
	if records != nil || refused != nil {
		t.Errorf("%v, %v", records, refused)
	}
}
