package mesh

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// end deletes an endpoint and tells what addresses it had on a network.
func (w *world) end(name string, id NetworkID) Attachment {
	w.t.Helper()
	e := w.state.Snapshot().EndpointNamed(name)
	a, ok := e.On(id)
	if !ok {
		w.t.Fatalf("%s has no address", name)
	}
	w.write(e.Node, Tombstone(EndpointRecord(e)))
	return a
}

// Whoever ends, moves or is removed: nobody else is given one of the addresses within Rest, on
// whatever node, also when the nodes start again from their records.
func TestAddressesRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.settleAll()
		left := map[at]resting{}
		had := map[at]*Endpoint{}
		next := 100
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			before := w.state.Snapshot()
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				w.time += uint64(rapid.IntRange(0, int(restMicros)).Draw(t, "pause"))
			case 1:
				if len(before.Endpoints) > 0 {
					e := rapid.SampledFrom(before.Endpoints).Draw(t, "ended")
					w.write(e.Node, Tombstone(EndpointRecord(e)))
				}
			case 2:
				s := *rapid.SampledFrom(before.Services).Draw(t, "service")
				s.Networks = rapid.SliceOfDistinct(rapid.SampledFrom([]NetworkID{testID[NetworkID]('b', 1), testID[NetworkID]('b', 2)}), func(n NetworkID) NetworkID { return n }).Draw(t, "networks")
				w.write(testID[NodeID]('a', 1), ServiceRecord(&s))
			default:
				e := testEndpoint(next, rapid.IntRange(1, len(before.Nodes)).Draw(t, "on"), rapid.IntRange(1, 3).Draw(t, "of"))
				next++
				w.write(e.Node, EndpointRecord(e))
			}
			w = &world{t: t, state: *merged(w.state.Records()...), time: w.time}
			w.settleAll()
			now := map[at]*Endpoint{}
			for _, e := range w.state.Snapshot().Endpoints {
				for _, a := range e.Attached {
					for _, one := range a.both() {
						now[one] = e
						rest := left[one]
						again := len(e.Fixed) > 0 && rest.service == e.Service // who asks for it gets it from one of its own service
						if (had[one] == nil || had[one].ID != e.ID) && rest.until > w.time && !again && roomy(w.state.Snapshot(), one.network) {
							t.Fatalf("%s is given to %s, and rests for %d more", one.addr, e.ID, rest.until-w.time)
						}
					}
				}
			}
			for one, e := range had {
				if now[one] == nil || now[one].ID != e.ID {
					left[one] = resting{w.time + restMicros - 100, e.Service} // it was left a few ticks ago
				}
			}
			had = now
		}
	})
}

// roomy tells whether a network has many blocks that nobody claims: then nobody has to take what rests.
func roomy(snap *Snapshot, id NetworkID) bool {
	n, claimed := snap.Network(id), 0
	for _, node := range snap.Nodes {
		claimed += len(node.BlocksOf(id))
	}
	return 4*(n.blockCount()-claimed) > n.blockCount()
}

func TestFixedAddressRests(t *testing.T) {
	w, blue := fixedWorld(t)
	had := w.end("e1", blue.ID)
	again, other := testEndpoint(2, 1, 1), testEndpoint(3, 1, 2)
	again.Fixed, other.Fixed = []netip.Addr{had.V4}, []netip.Addr{had.V4}
	snap := w.state.Snapshot()
	if err := snap.CheckFixed(again, w.time); err != nil {
		t.Errorf("to an endpoint of the same service: %v", err)
	}
	if err := snap.CheckFixed(other, w.time); ReasonOf(err) != AddressRests {
		t.Errorf("to one of another: %v", err)
	}
	if err := snap.CheckFixed(other, w.time+restMicros); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	w.write(again.Node, EndpointRecord(again))
	w.settleAll()
	settled(t, w.state.Snapshot())
}

// In a network that is full what rested longest is taken.
func TestRestingIsTakenLast(t *testing.T) {
	w, blue := fixedWorld(t)
	const room = 3 * 63
	for i := range room - 1 {
		w.write(testID[NodeID]('a', 1), EndpointRecord(testEndpoint(100+i, 1, 1)))
	}
	w.settleAll()
	settled(t, w.state.Snapshot())
	first := w.end("e100", blue.ID)
	w.time += restMicros / 2
	w.end("e101", blue.ID)
	w.write(testID[NodeID]('a', 1), EndpointRecord(testEndpoint(5, 1, 1)))
	w.settleAll()
	if a, _ := w.endpoint(5).On(blue.ID); a != first {
		t.Errorf("%v is given, and %v rested longest", a, first)
	}
}

// What a node had that was removed rests too, for those who get its blocks.
func TestRemovedNodesAddressesRest(t *testing.T) {
	w, blue := fixedWorld(t)
	a := w.endpoint(1).Attached[0]
	w.write(testID[NodeID]('a', 2), RemovalRecord(&Removal{Node: testID[NodeID]('a', 1), Name: "n1"}))
	other := testEndpoint(3, 2, 2)
	other.Fixed = []netip.Addr{a.V4}
	if err := w.state.Snapshot().CheckFixed(other, w.time); ReasonOf(err) != AddressRests {
		t.Errorf("got %v", err)
	}
	if err := w.state.Snapshot().CheckFixed(other, w.time+restMicros); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	if n := len((&State{}).Snapshot().rests); n != 0 || blue == nil {
		t.Errorf("%d rest", n)
	}
}

// Blocks that churn made a node claim are given back.
func TestBlocksAreReleased(t *testing.T) {
	w, blue := fixedWorld(t)
	node := testID[NodeID]('a', 1)
	for i := range 80 {
		w.write(node, EndpointRecord(testEndpoint(100+i, 1, 1)))
	}
	w.settleAll()
	if n := len(w.state.Snapshot().Node(node).BlocksOf(blue.ID)); n != 2 {
		t.Fatalf("%d blocks", n)
	}
	for _, e := range w.state.Snapshot().Endpoints {
		if e.Name != "e1" {
			w.write(node, Tombstone(EndpointRecord(e)))
		}
	}
	w.settleAll()
	w.write(node, EndpointRecord(testEndpoint(5, 1, 1)))
	w.settleAll()
	if n := len(w.state.Snapshot().Node(node).BlocksOf(blue.ID)); n != 2 {
		t.Errorf("%d blocks while what is in them rests", n)
	}
	w.time += 2 * restMicros
	w.write(node, EndpointRecord(testEndpoint(6, 1, 1)))
	w.settleAll()
	if n := len(w.state.Snapshot().Node(node).BlocksOf(blue.ID)); n > 2 || n == 2 && inOne(w.state.Snapshot(), blue.ID) {
		t.Errorf("%d blocks", n)
	}
}

// A node with one short-lived endpoint at a time takes no network from the others, however often
// it starts one.
func TestChurnStarvesNobody(t *testing.T) {
	for name, pause := range map[string]time.Duration{"three a second": time.Second / 3, "thirty a second": time.Second / 30} {
		t.Run(name, func(t *testing.T) {
			w, blue := fixedWorld(t)
			a, b := testID[NodeID]('a', 1), testID[NodeID]('a', 2)
			for i := range 300 {
				w.write(a, EndpointRecord(testEndpoint(100+i, 1, 1)))
				w.settleAll()
				w.end(testEndpoint(100+i, 1, 1).Name, blue.ID)
				w.settleAll()
				w.time += uint64(pause.Microseconds())
			}
			settled(t, w.state.Snapshot())
			w.write(b, EndpointRecord(testEndpoint(900, 2, 1)))
			w.settleAll()
			settled(t, w.state.Snapshot())
			if got := w.endpoint(900).Attached; len(got) != 1 {
				t.Errorf("another node's first endpoint has %v", got)
			}
			w.time += restMicros
			w.settleAll()
			if n := len(w.state.Snapshot().Node(a).BlocksOf(blue.ID)); n > 2 || n == 2 && inFirst(w.state.Snapshot().Node(a), w.endpoint(1), blue.ID) {
				t.Errorf("%d blocks for one endpoint", n)
			}
		})
	}
}

// inFirst tells whether an endpoint's address is in the first of its node's blocks.
func inFirst(n *Node, e *Endpoint, id NetworkID) bool {
	a, _ := e.On(id)
	return n.BlocksOf(id)[0].V4.Contains(a.V4)
}

// inOne tells whether all endpoints of a network are in one block.
func inOne(snap *Snapshot, id NetworkID) bool {
	in := map[netip.Prefix]bool{}
	for _, e := range snap.Endpoints {
		if a, ok := e.On(id); ok {
			in[netip.PrefixFrom(a.V4, blockBits4).Masked()] = true
		}
	}
	return len(in) == 1
}

func TestFreedIsChecked(t *testing.T) {
	w, _ := fixedWorld(t)
	e := w.endpoint(1)
	good := stamped(Tombstone(EndpointRecord(e)), w.time+1, e.Node)
	if err := good.Validate(); err != nil || len(good.Freed) != 1 {
		t.Fatalf("%v, %v", good, err)
	}
	for name, spoil := range map[string]func(r *Record){
		"a date":       func(r *Record) { r.Freed[0].Since = 1 << 40 },
		"no address":   func(r *Record) { r.Freed[0].V4 = netip.Addr{} },
		"another kind": func(r *Record) { r.Kind = KindService },
		"a service":    func(r *Record) { r.FreedBy = "web" },
		"too many": func(r *Record) {
			for range leftLimit {
				r.Freed = append(r.Freed, r.Freed[0])
			}
		},
		"alive": func(r *Record) { r.Deleted, r.Endpoint = false, e },
	} {
		r := good
		r.Freed = append([]Freed(nil), good.Freed...)
		spoil(&r)
		if err := r.Validate(); ReasonOf(err) != BadRecord {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who loses its block to an older claim leaves its addresses: they rest at the winner too.
func TestAddressesOfLostBlockRest(t *testing.T) {
	w, blue := fixedWorld(t)
	free := blue.block(0)
	if w.state.Snapshot().Node(testID[NodeID]('a', 1)).Blocks[0].V4 == free.V4 {
		free = blue.block(1)
	}
	first, _ := free.address(5)
	second, _ := free.address(9)
	halves := w.halved()
	for i, want := range []netip.Addr{first, second} {
		e := testEndpoint(10+i, i+1, 1)
		e.Fixed = []netip.Addr{want}
		halves[i].write(e.Node, EndpointRecord(e))
		halves[i].settle(e.Node)
	}
	w = met(halves)
	w.settleAll()
	stranger := testEndpoint(20, 1, 2)
	stranger.Fixed = []netip.Addr{second}
	if a, _ := w.endpoint(10).On(blue.ID); a.V4 != first {
		t.Fatalf("the older claim lost %s: %v", first, a)
	}
	lost := w.endpoint(11)
	lost.Fixed = nil // so that it asks for it no longer
	w.write(lost.Node, EndpointRecord(lost))
	w.settleAll()
	if err := w.state.Snapshot().CheckFixed(stranger, w.time); ReasonOf(err) != AddressRests {
		t.Errorf("to an endpoint of another service: %v", err)
	}
	if err := w.state.Snapshot().CheckFixed(stranger, w.time+restMicros); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}
