package mesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// fixedWorld has two nodes, the network blue, which is 10.0.0.0/24 in blocks of /26, and a service on it with an
// endpoint on the first node.
func fixedWorld(t *testing.T) (w *world, blue *Network) {
	t.Helper()
	w = newWorld(t, 2)
	a := testID[NodeID]('a', 1)
	blue, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.MustParsePrefix("10.0.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(a, NetworkRecord(blue))
	for i := range 2 {
		s := testService(i + 1)
		s.Networks = []NetworkID{blue.ID}
		w.write(a, ServiceRecord(s))
	}
	w.write(a, EndpointRecord(testEndpoint(1, 1, 1)))
	w.settleAll()
	return w, blue
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func (w *world) endpoint(n int) *Endpoint {
	return w.state.Snapshot().EndpointNamed(testEndpoint(n, 1, 1).Name)
}

func TestFixedAddressIsKept(t *testing.T) {
	w, blue := fixedWorld(t)
	free := blue.block(0)
	if w.state.Snapshot().Node(testID[NodeID]('a', 1)).Blocks[0].V4 == free.V4 {
		free = blue.block(1)
	}
	v4, _ := free.address(5)
	_, v6 := free.address(9)
	other, _ := blue.block(2).address(1)
	for n, fixed := range map[int][]netip.Addr{2: {v4}, 3: {v6}, 4: {free.V4.Addr().Next(), free.V6.Addr().Next().Next()}} {
		e := testEndpoint(n, 2, 1)
		e.Fixed = fixed
		if err := w.state.Snapshot().CheckFixed(e, w.time); err != nil {
			t.Fatalf("%v: %v", fixed, err)
		}
		w.write(e.Node, EndpointRecord(e))
		w.settleAll()
	}
	settled(t, w.state.Snapshot())
	if a, _ := w.endpoint(2).On(blue.ID); a.V4 != v4 || w.endpoint(2).Node != testID[NodeID]('a', 2) {
		t.Errorf("%v", a)
	}
	if got := w.state.Snapshot().Node(testID[NodeID]('a', 2)).Blocks; len(got) != 1 || got[0].V4 != free.V4 {
		t.Errorf("node 2 has %v for addresses of %s", got, free.V4)
	}
	// An address outside of it makes the node claim one more block, and nobody moves.
	before := w.endpoint(2).Attached
	e := testEndpoint(5, 2, 1)
	e.Fixed = []netip.Addr{other}
	if w.state.Snapshot().CheckFixed(e, w.time) == nil {
		w.write(e.Node, EndpointRecord(e))
		w.settleAll()
		settled(t, w.state.Snapshot())
		if a, _ := w.endpoint(5).On(blue.ID); a.V4 != other {
			t.Errorf("%v", a)
		}
	}
	if !slices.Equal(before, w.endpoint(2).Attached) {
		t.Errorf("%v became %v", before, w.endpoint(2).Attached)
	}
}

func TestCheckFixedRefuses(t *testing.T) {
	w, blue := fixedWorld(t)
	snap := w.state.Snapshot()
	own := snap.Node(testID[NodeID]('a', 1)).Blocks[0]
	have := w.endpoint(1).Attached[0]
	spare4, spare6 := own.address(40)
	if spare4 == have.V4 {
		spare4, spare6 = own.address(41)
	}
	virtual := blue.virtual4().Addr().Next()
	waiting := testEndpoint(7, 1, 1)
	waiting.Fixed = []netip.Addr{spare4}
	other4, _ := own.address(50)
	_, wide := blue.block(0).address(3)
	if blue.block(0).V6 == own.V6 {
		_, wide = blue.block(1).address(3)
	}
	w.write(waiting.Node, EndpointRecord(waiting))
	for _, c := range []struct {
		name  string
		node  int
		fixed []netip.Addr
		want  Reason
		says  string
	}{
		{"in no network", 1, addrs("172.16.0.1"), BadAddress, "in no network of service"},
		{"of a network that the service is not on", 1, addrs("198.18.0.5"), BadAddress, "in no network of service"},
		{"taken", 1, []netip.Addr{have.V4}, AddressTaken, `endpoint "e1"`},
		{"taken, IPv6", 1, []netip.Addr{have.V6}, AddressTaken, `endpoint "e1"`},
		{"asked for", 1, []netip.Addr{spare4}, AddressTaken, `asked for by endpoint "e7"`},
		{"the sandbox's", 1, []netip.Addr{own.Gateway4()}, BadAddress, "sandbox"},
		{"the sandbox's, IPv6", 1, []netip.Addr{own.Gateway6()}, BadAddress, "sandbox"},
		{"anycast", 1, []netip.Addr{own.V6.Addr()}, BadAddress, "sandbox"},
		{"virtual", 1, []netip.Addr{virtual}, BadAddress, "virtual"},
		{"another node's", 2, []netip.Addr{other4}, BlockTaken, `node "n1"`},
		{"another node's, IPv6", 2, []netip.Addr{spare6}, BlockTaken, `node "n1"`},
		{"two of a family", 1, []netip.Addr{spare4.Next(), spare4.Next().Next()}, BadValue, "several of one family"},
		{"of two blocks", 1, []netip.Addr{other4, wide}, BadAddress, "not of one block"},
		{"free", 1, []netip.Addr{other4}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := testEndpoint(9, c.node, 1)
			e.Fixed = c.fixed
			err := w.state.Snapshot().CheckFixed(e, w.time)
			if ReasonOf(err) != c.want || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Both sides of a split give one address: the older block holds it, the other endpoint is without
// and says so on all nodes, and has it once the first is gone.
func TestFixedAddressAcrossSplit(t *testing.T) {
	w, blue := fixedWorld(t)
	free := blue.block(0)
	if w.state.Snapshot().Node(testID[NodeID]('a', 1)).Blocks[0].V4 == free.V4 {
		free = blue.block(1)
	}
	v4, _ := free.address(7)
	halves := [2]*world{}
	for i := range halves {
		halves[i] = &world{t: t, state: *merged(w.state.Records()...), time: w.time + uint64(10*i)}
		e := testEndpoint(10+i, i+1, 1)
		e.Fixed = []netip.Addr{v4}
		halves[i].write(e.Node, EndpointRecord(e))
		halves[i].settle(e.Node)
		if a, _ := halves[i].endpoint(10 + i).On(blue.ID); a.V4 != v4 {
			t.Fatalf("half %d gives %v", i, a)
		}
	}
	w = &world{t: t, state: *merged(append(halves[0].state.Records(), halves[1].state.Records()...)...), time: halves[1].time + 100}
	w.settleAll()
	snap := w.state.Snapshot()
	settled(t, snap)
	first, second := snap.EndpointNamed("e10"), snap.EndpointNamed("e11")
	if a, _ := first.On(blue.ID); a.V4 != v4 {
		t.Errorf("the older claim lost it: %v", first.Attached)
	}
	if len(second.Attached) != 0 || ReasonOf(snap.Unmet(second)) != BlockTaken || snap.Unmet(first) != nil {
		t.Errorf("the younger one has %v: %v", second.Attached, snap.Unmet(second))
	}
	w.time += restMicros
	for _, name := range []string{"e1", "e10"} { // all that node 1 has
		w.write(testID[NodeID]('a', 1), Tombstone(EndpointRecord(snap.EndpointNamed(name))))
	}
	w.time += restMicros
	w.settleAll()
	if a, _ := w.endpoint(11).On(blue.ID); a.V4 != v4 {
		t.Errorf("it is free, and %v has it", w.endpoint(11).Attached)
	}
}

// The address of an endpoint that is gone can be asked for at another node: a minute later, since its
// block is given back then, which the refusal says.
func TestFixedAddressMoves(t *testing.T) {
	w, blue := fixedWorld(t)
	free := blue.block(0)
	if w.state.Snapshot().Node(testID[NodeID]('a', 1)).Blocks[0].V4 == free.V4 {
		free = blue.block(1)
	}
	v4, _ := free.address(5)
	e := testEndpoint(2, 1, 1)
	e.Fixed = []netip.Addr{v4}
	w.write(e.Node, EndpointRecord(e))
	w.settleAll()
	moved := testEndpoint(3, 2, 1)
	moved.Fixed = e.Fixed
	check := func() error { return w.state.Snapshot().CheckFixed(moved, w.time) }
	if err := check(); ReasonOf(err) != AddressTaken {
		t.Errorf("while it is in use: %v", err)
	}
	w.end("e2", blue.ID)
	until := clock(w.time + restMicros)
	w.settleAll()
	if err := check(); ReasonOf(err) != BlockTaken || !strings.Contains(err.Error(), "back at "+until) {
		t.Errorf("at once: %v", err)
	}
	w.time += restMicros
	w.settleAll()
	if err := check(); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	w.write(moved.Node, EndpointRecord(moved))
	w.settleAll()
	if a, _ := w.endpoint(3).On(blue.ID); a.V4 != v4 {
		t.Errorf("it is given %v", a)
	}
}

// halved is a split: the world as each side sees it. Node 1 and node 2 then write of their own.
func (w *world) halved() [2]*world {
	var halves [2]*world
	for i := range halves {
		halves[i] = &world{t: w.t, state: *merged(w.state.Records()...), time: w.time + uint64(100*i)}
	}
	return halves
}

// met is what both sides of a split have once it has healed.
func met(halves [2]*world) *world {
	records := append(halves[0].state.Records(), halves[1].state.Records()...)
	return &world{t: halves[0].t, state: *merged(records...), time: max(halves[0].time, halves[1].time) + 100}
}

// A further subnet goes, by a later write of its network or an older claim of another one: who asked
// for an address of it is without, says so, and gets it once the subnet is there again.
func TestFixedAddressOfLostSubnet(t *testing.T) {
	want := netip.MustParseAddr("10.0.10.5")
	for name, c := range map[string]struct {
		pauses [2]uint64 // before each side writes
		lose   func(w *world, blue *Network)
	}{
		"to a later write": {[2]uint64{0, 1000}, func(w *world, blue *Network) { w.grow(blue.ID, "10.0.11.0/24") }},
		"to an older claim": {[2]uint64{1000, 0}, func(w *world, _ *Network) {
			green, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 2), "green", netip.MustParsePrefix("10.0.8.0/21"))
			if err != nil {
				w.t.Fatalf("%v", err)
			}
			w.write(testID[NodeID]('a', 2), NetworkRecord(green))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w, blue := fixedWorld(t)
			before := w.endpoint(1).Attached
			halves := w.halved()
			for i, h := range halves {
				h.time += c.pauses[i]
			}
			c.lose(halves[1], blue)
			halves[0].grow(blue.ID, "10.0.10.0/24")
			e := testEndpoint(20, 1, 1)
			e.Fixed = []netip.Addr{want}
			halves[0].write(e.Node, EndpointRecord(e))
			halves[0].settle(e.Node)
			if a, _ := halves[0].endpoint(20).On(blue.ID); a.V4 != want {
				t.Fatalf("it is given %v", a)
			}
			w = met(halves)
			w.settleAll()
			settled(t, w.state.Snapshot())
			snap := w.state.Snapshot()
			_, refused := Settle(snap, e.Node, w.time)
			if got := w.endpoint(20); len(got.Attached) != 0 || ReasonOf(snap.Unmet(got)) != BadAddress || ReasonOf(refused[got.ID]) != BadAddress {
				t.Errorf("it has %v, unmet: %v, refused: %v", got.Attached, snap.Unmet(got), refused)
			}
			if got := w.endpoint(1); !slices.Equal(got.Attached, before) || snap.Unmet(got) != nil {
				t.Errorf("another one had %v and has %v", before, got.Attached)
			}
			if green := snap.NetworkNamed("green"); green != nil {
				w.write(testID[NodeID]('a', 1), Tombstone(NetworkRecord(green)))
			} else {
				w.grow(blue.ID, "10.0.10.0/24")
			}
			w.settleAll()
			if a, _ := w.endpoint(20).On(blue.ID); a.V4 != want {
				t.Errorf("the subnet is back, and it has %v", a)
			}
		})
	}
}

// What was asked for on a network that the service uses no longer keeps the endpoint from no other.
func TestFixedAddressOfLeftNetwork(t *testing.T) {
	w, _ := fixedWorld(t)
	green, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 2), "green", netip.MustParsePrefix("10.1.0.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(testID[NodeID]('a', 1), NetworkRecord(green))
	e := testEndpoint(20, 1, 1)
	e.Fixed = addrs("10.0.0.5")
	w.write(e.Node, EndpointRecord(e))
	moved := testService(1)
	moved.Networks = []NetworkID{green.ID}
	w.write(testID[NodeID]('a', 1), ServiceRecord(moved))
	w.settleAll()
	settled(t, w.state.Snapshot())
	if _, on := w.endpoint(20).On(green.ID); !on {
		t.Errorf("it has %v", w.endpoint(20).Attached)
	}
}
