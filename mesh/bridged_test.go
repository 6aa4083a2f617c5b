package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// drawBridges is a world of nodes with two bridges and an overlay, where endpoints are on bridges
// by their service or by themselves and ask for addresses that are few.
func drawBridges(t *rapid.T) *world {
	nodes := rapid.IntRange(1, 3).Draw(t, "nodes")
	w := newWorld(t, nodes)
	a := testID[NodeID]('a', 1)
	wishes := []NetworkWish{
		{Name: "lan", Driver: Bridge, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("fd00:1::/125")}},
		{Name: "far", Driver: Bridge, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/28"), netip.MustParsePrefix("fd00:2::/64")}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.9")}, Internal: true},
		{Name: "blue"},
	}
	var nets []NetworkID
	for i, wish := range wishes {
		wish.ID = testID[NetworkID]('b', i+1)
		n, err := NewNetwork(w.state.Snapshot(), wish)
		if err != nil {
			t.Fatalf("%v", err)
		}
		w.write(a, NetworkRecord(n))
		nets = append(nets, n.ID)
	}
	some := func(label string) []NetworkID {
		list := rapid.SliceOfDistinct(rapid.SampledFrom(nets), func(n NetworkID) NetworkID { return n }).Draw(t, label)
		slices.Sort(list)
		return list
	}
	for i := range 2 {
		s := testService(i + 1)
		s.Networks = some("networks")
		w.write(a, ServiceRecord(s))
	}
	for i := range rapid.IntRange(0, 9).Draw(t, "endpoints") {
		e := drawBridged(t, w, i+1, nodes, some("joined"))
		w.write(e.Node, EndpointRecord(e))
	}
	return w
}

func drawBridged(t *rapid.T, w *world, i, nodes int, joined []NetworkID) *Endpoint {
	e := testEndpoint(i, rapid.IntRange(1, nodes).Draw(t, "on"), rapid.IntRange(1, 2).Draw(t, "of"))
	for _, id := range joined {
		e.Joined = append(e.Joined, Joined{Network: id, Gateway: rapid.IntRange(0, 1).Draw(t, "gateway")})
	}
	for _, n := range w.state.Snapshot().Networks {
		if n.Bridged() && rapid.IntRange(0, 3).Draw(t, "asks") == 0 {
			e.Fixed = append(e.Fixed, nthHost(n.Subnet4, rapid.Uint64Range(0, 5).Draw(t, "host")))
		}
	}
	slices.SortFunc(e.Fixed, netip.Addr.Compare)
	return e
}

// bridgesSettled checks what must be true once nobody has anything to write.
func (w *world) bridgesSettled(t *rapid.T) {
	t.Helper()
	snap := w.state.Snapshot()
	type owned struct {
		node NodeID
		at   at
	}
	holder := map[owned]EndpointID{}
	for _, e := range snap.Endpoints {
		_, refused := Settle(snap, e.Node, w.time)
		service := snap.Service(e.Service)
		if on := len(e.Attached); (on != len(e.Networks(service))) != (refused[e.ID] != nil) {
			t.Fatalf("%s is on %d of %v, refused %v", e.Name, on, e.Networks(service), refused[e.ID])
		}
		for _, a := range e.Attached {
			n := snap.Network(a.Network)
			for _, one := range a.both() {
				k := owned{e.Node, one}
				if other := holder[k]; other != "" || !n.Contains(one.addr) {
					t.Fatalf("%s of %s is also %s's", one.addr, e.ID, other)
				}
				holder[k] = e.ID
				if n.Bridged() && (one.addr == n.Gateway4 || one.addr == n.Gateway6 || n.noHost(one.addr)) {
					t.Fatalf("%s has %s of network %+v", e.Name, one.addr, n)
				}
			}
			for _, asked := range snap.asked(e, a.Network) {
				if asked.addr != a.V4 && asked.addr != a.V6 {
					t.Fatalf("%s asks for %s and has %v", e.Name, asked.addr, a)
				}
			}
		}
		if at, ok := snap.Gateway(e); ok && snap.Network(at.Network).Internal {
			t.Fatalf("%s has its default route on an internal network", e.Name)
		}
	}
	for _, node := range snap.Nodes {
		for _, b := range node.Blocks {
			if snap.Network(b.Network).Bridged() {
				t.Fatalf("%s claims a block of a bridge", node.Name)
			}
		}
	}
}

// Whatever order nodes speak in: each node's addresses on a bridge have one owner, and nothing
// changes by asking again, nor by starting again from the records in another order.
func TestBridgesSettle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawBridges(t)
		for _, id := range rapid.Permutation(idsOf(w.state.Snapshot())).Draw(t, "turns") {
			w.settle(id)
		}
		w.settleAll()
		w.bridgesSettled(t)
		before := w.state.Records()
		again := &world{t: t, state: *merged(shuffled(t, before)...), time: w.time + 1000}
		again.settleAll()
		if diff := cmp.Diff(before, again.state.Records(), sameViews); diff != "" {
			t.Fatal(diff)
		}
	})
}

func lanWorld(t *testing.T, nodes int, subnets ...string) (*world, *Network) {
	t.Helper()
	w := newWorld(t, nodes)
	wish := NetworkWish{ID: testID[NetworkID]('b', 1), Name: "lan", Driver: Bridge}
	for _, text := range subnets {
		wish.Subnets = append(wish.Subnets, netip.MustParsePrefix(text))
	}
	n, err := NewNetwork(w.state.Snapshot(), wish)
	if err != nil {
		t.Fatal(err)
	}
	a := testID[NodeID]('a', 1)
	w.write(a, NetworkRecord(n))
	s := testService(1)
	s.Networks = []NetworkID{n.ID}
	w.write(a, ServiceRecord(s))
	return w, n
}

// A node gives a whole subnet out, and another node the same one; of one more it says why not.
func TestBridgeSubnetIsEachNodes(t *testing.T) {
	w, n := lanWorld(t, 2, "10.0.0.0/29", "fd00:1::/125")
	for node := 1; node <= 2; node++ {
		for i := range 5 {
			w.write(testID[NodeID]('a', node), EndpointRecord(testEndpoint(10*node+i, node, 1)))
		}
	}
	w.settleAll()
	snap := w.state.Snapshot()
	for node := 1; node <= 2; node++ {
		var have []string
		for _, e := range snap.Local(testID[NodeID]('a', node)) {
			a, _ := e.On(n.ID)
			have = append(have, fmt.Sprintf("%s %s", a.V4, a.V6))
		}
		slices.Sort(have)
		if got := strings.Join(have, ", "); got != "10.0.0.2 fd00:1::2, 10.0.0.3 fd00:1::3, 10.0.0.4 fd00:1::4, 10.0.0.5 fd00:1::5, 10.0.0.6 fd00:1::6" {
			t.Errorf("node %d: %s", node, got)
		}
	}
	w.write(testID[NodeID]('a', 1), EndpointRecord(testEndpoint(99, 1, 1)))
	_, refused := Settle(w.state.Snapshot(), testID[NodeID]('a', 1), w.time)
	if err := refused[testID[EndpointID]('e', 99)]; ReasonOf(err) != PoolExhausted || !strings.Contains(err.Error(), "10.0.0.0/29") || !strings.Contains(err.Error(), "5 endpoints") {
		t.Errorf("one more: %v", err)
	}
}

// What an endpoint left rests, but on its own node alone.
func TestBridgeAddressRestsOnItsNode(t *testing.T) {
	w, n := lanWorld(t, 2, "10.0.0.0/29")
	e := testEndpoint(1, 1, 1)
	e.Fixed = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	w.write(e.Node, EndpointRecord(e))
	w.settleAll()
	if a, ok := w.state.Snapshot().EndpointNamed("e1").On(n.ID); !ok || a.V4 != e.Fixed[0] {
		t.Fatalf("e1 has %v", a)
	}
	have, _ := w.state.Get(Key{KindEndpoint, string(e.ID)})
	w.write(e.Node, Tombstone(have))
	other := testService(2)
	other.Networks = []NetworkID{n.ID}
	w.write(e.Node, ServiceRecord(other))
	snap := w.state.Snapshot()
	for node, want := range map[int]Reason{1: AddressRests, 2: ""} {
		next := testEndpoint(2, node, 2)
		next.Fixed = e.Fixed
		if err := snap.CheckFixed(next, w.time); ReasonOf(err) != want {
			t.Errorf("on node %d: %v", node, err)
		}
	}
	if err := snap.CheckFixed(&Endpoint{ID: testID[EndpointID]('e', 2), Node: e.Node, Service: other.ID, Fixed: e.Fixed}, w.time+restMicros); err != nil {
		t.Errorf("after its rest: %v", err)
	}
}

func TestCheckFixedOnBridge(t *testing.T) {
	w, n := lanWorld(t, 2, "10.0.0.0/28", "fd00:1::/64")
	taken := testEndpoint(1, 1, 1)
	taken.Fixed = []netip.Addr{netip.MustParseAddr("10.0.0.5")}
	w.write(taken.Node, EndpointRecord(taken))
	w.settleAll()
	for text, want := range map[string]Reason{
		"10.0.0.2": "", "10.0.0.14": "", "fd00:1::ffff": "", "10.0.0.7,fd00:1::9": "",
		"10.0.0.0": BadAddress, "10.0.0.15": BadAddress, "10.0.0.1": BadAddress, "fd00:1::": BadAddress, "fd00:1::1": BadAddress,
		"10.0.0.16": BadAddress, "10.0.0.5": AddressTaken, "10.0.0.2,10.0.0.3": BadValue,
	} {
		e := testEndpoint(2, 1, 1)
		for one := range strings.SplitSeq(text, ",") {
			e.Fixed = append(e.Fixed, netip.MustParseAddr(one))
		}
		snap := w.state.Snapshot()
		if err := snap.CheckFixed(e, w.time); ReasonOf(err) != want {
			t.Errorf("%s: %v", text, err)
		}
		if want != "" {
			continue
		}
		again := &world{t: t, state: *merged(w.state.Records()...), time: w.time}
		again.write(e.Node, EndpointRecord(e))
		again.settleAll()
		a, _ := again.state.Snapshot().EndpointNamed("e2").On(n.ID)
		for _, asked := range e.Fixed {
			if a.V4 != asked && a.V6 != asked {
				t.Errorf("%s: has %v", text, a)
			}
		}
	}
	// The same address on another node is another one.
	e := testEndpoint(2, 2, 1)
	e.Fixed = taken.Fixed
	if err := w.state.Snapshot().CheckFixed(e, w.time); err != nil {
		t.Errorf("on another node: %v", err)
	}
}

// An endpoint joins a network beside its service's and leaves it again, and keeps what it has.
func TestJoinAndLeave(t *testing.T) {
	w, lan := lanWorld(t, 1, "10.0.0.0/28")
	far, err := NewNetwork(w.state.Snapshot(), NetworkWish{ID: testID[NetworkID]('b', 2), Name: "far", Driver: Bridge})
	if err != nil {
		t.Fatal(err)
	}
	a := testID[NodeID]('a', 1)
	w.write(a, NetworkRecord(far))
	w.write(a, EndpointRecord(testEndpoint(1, 1, 1)))
	w.settleAll()
	first, _ := w.state.Snapshot().EndpointNamed("e1").On(lan.ID)
	join := func(joined ...Joined) *Endpoint {
		e := w.state.Snapshot().EndpointNamed("e1").clone()
		e.Joined = joined
		w.write(a, EndpointRecord(e))
		w.settleAll()
		e = w.state.Snapshot().EndpointNamed("e1")
		if have, _ := e.On(lan.ID); have != first {
			t.Errorf("on its service's network it has %v, had %v", have, first)
		}
		return e
	}
	e := join(Joined{Network: far.ID})
	if at, _ := w.state.Snapshot().Gateway(e); len(e.Attached) != 2 || at.Network != far.ID {
		t.Errorf("on %v, default route on %s: far comes before lan", e.Attached, at.Network)
	}
	e = join(Joined{Network: lan.ID, Gateway: 1}, Joined{Network: far.ID})
	if at, _ := w.state.Snapshot().Gateway(e); at.Network != lan.ID {
		t.Errorf("default route on %s", at.Network)
	}
	if e = join(); len(e.Attached) != 1 || len(e.Left) != 1 {
		t.Errorf("on %v, left %v", e.Attached, e.Left)
	}
}
