package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// virtualWorld has a network with 14 blocks for nodes and 30 virtual addresses, and services on it.
func virtualWorld(t fataler, services int) (*world, *Network) {
	t.Helper()
	w := newWorld(t, 2)
	n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.MustParsePrefix("10.0.0.0/24"))
	if err != nil {
		t.Fatalf("%v", err)
	}
	n.Bits4 = 28
	w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	for i := range services {
		w.serve(i+1, n.ID)
	}
	return w, n
}

// byAge are the services, the oldest claim first.
func byAge(state *State) []*Service {
	records := slices.DeleteFunc(state.Records(), func(r Record) bool { return r.Service == nil })
	slices.SortStableFunc(records, func(a, b Record) int { return cmp.Compare(a.Claim, b.Claim) })
	list := make([]*Service, len(records))
	for i, r := range records {
		list[i] = r.Service
	}
	return list
}

// pairOf is a network's virtual address with that number.
func pairOf(n *Network, i int) Attachment {
	snap := &Snapshot{networks: map[NetworkID]*Network{n.ID: n}}
	return snap.virtualParts()[n.ID].pair(i)
}

// serve writes a service as an agent does.
func (w *world) serve(i int, networks ...NetworkID) error {
	s := testService(i)
	s.Networks = networks
	virtual, err := w.state.Snapshot().ChooseVirtual(s)
	s.Virtual = virtual
	w.write(testID[NodeID]('a', 1), ServiceRecord(s))
	return err
}

// onlyOneVirtual checks that every service has an address of its own, of those for services.
func onlyOneVirtual(t fataler, snap *Snapshot, n *Network) {
	t.Helper()
	owner := map[netip.Addr]ServiceID{}
	for _, s := range snap.Services {
		a, ok := snap.Virtual(s.ID, n.ID)
		if ok != (s.Mode != RoundRobinDNS && len(s.Networks) > 0) {
			t.Fatalf("service %s of mode %q on %v has %v", s.Name, s.Mode, s.Networks, a)
		}
		if !ok {
			continue
		}
		for _, addr := range []netip.Addr{a.V4, a.V6} {
			if other := owner[addr]; other != "" {
				t.Fatalf("%s is virtual for %s and %s", addr, other, s.ID)
			}
			owner[addr] = s.ID
		}
		if parts := n.VirtualParts(); !parts[0].Contains(a.V4) || !parts[1].Contains(a.V6) {
			t.Fatalf("%s has %v outside %v", s.Name, a, parts)
		}
	}
}

// Two sides of a split choose for themselves; whatever order the records come in, the virtual
// addresses are distinct, all sides say the same, and the oldest claim has what it was given.
func TestVirtualAfterASplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, n := virtualWorld(t, rapid.IntRange(0, 4).Draw(t, "before"))
		var records []Record
		for half := range 2 {
			side := &world{t: t, state: *merged(w.state.Records()...), time: w.time + uint64(rapid.IntRange(0, 9).Draw(t, "clock"))}
			for i := range rapid.IntRange(0, 10).Draw(t, "services") {
				if err := side.serve(100*(half+1)+i, n.ID); err != nil {
					t.Fatalf("%v", err)
				}
				if rapid.IntRange(0, 4).Draw(t, "forged") == 0 { // by somebody who takes what he likes
					s := testService(100*(half+1) + i)
					s.Networks, s.Virtual = []NetworkID{n.ID}, []Attachment{pairOf(n, rapid.IntRange(0, 3).Draw(t, "number"))}
					side.write(testID[NodeID]('a', 2), ServiceRecord(s))
				}
			}
			records = append(records, side.state.Records()...)
		}
		one := merged(records...).Snapshot()
		onlyOneVirtual(t, one, n)
		other := merged(shuffled(t, records)...).Snapshot()
		stored := map[netip.Addr]bool{}
		for _, s := range byAge(merged(records...)) {
			a, _ := one.Virtual(s.ID, n.ID)
			if b, _ := other.Virtual(s.ID, n.ID); a != b {
				t.Fatalf("%s has %v by one order and %v by another", s.Name, a, b)
			}
			if len(s.Virtual) == 0 {
				continue
			}
			if v := s.Virtual[0]; !stored[v.V4] && v != a {
				t.Fatalf("%s is the oldest with %v and has %v", s.Name, v, a)
			}
			stored[s.Virtual[0].V4] = true
		}
	})
}

// What a service has it keeps when it is written again, and when younger ones come and go.
func TestVirtualStays(t *testing.T) {
	w, n := virtualWorld(t, 12)
	first := w.state.Snapshot()
	for i := range 12 {
		if i%3 == 0 {
			w.write(testID[NodeID]('a', 1), Record{Kind: KindService, ID: string(testID[ServiceID]('c', i+1)), Deleted: true})
		}
	}
	for i := range 12 {
		if i%3 == 0 {
			continue
		}
		if err := w.serve(i+1, n.ID); err != nil {
			t.Fatal(err)
		}
		id := testID[ServiceID]('c', i+1)
		before, _ := first.Virtual(id, n.ID)
		if after, _ := w.state.Snapshot().Virtual(id, n.ID); after != before {
			t.Errorf("service %d had %v and has %v", i+1, before, after)
		}
	}
}

// A record of before there were virtual addresses gets one, and none is on the ingress network,
// on a bridge, or where the name is answered with endpoints.
func TestVirtualOfOldRecords(t *testing.T) {
	w, n := virtualWorld(t, 0)
	a := testID[NodeID]('a', 1)
	lan, err := NewNetwork(w.state.Snapshot(), NetworkWish{ID: testID[NetworkID]('b', 2), Name: "lan", Driver: Bridge})
	if err != nil {
		t.Fatal(err)
	}
	w.write(a, NetworkRecord(lan))
	old := testService(1, tcp(80))
	old.Networks = []NetworkID{n.ID, lan.ID}
	w.write(a, ServiceRecord(old))
	direct := testService(2)
	direct.Networks, direct.Mode = []NetworkID{n.ID}, RoundRobinDNS
	direct.Virtual = []Attachment{pairOf(n, 0)}
	w.write(a, ServiceRecord(direct))
	snap := w.state.Snapshot()
	onlyOneVirtual(t, snap, n)
	for _, id := range []NetworkID{lan.ID, IngressNetwork, testID[NetworkID]('b', 9)} {
		if got, ok := snap.Virtual(old.ID, id); ok {
			t.Errorf("on %s it has %v", id, got)
		}
	}
	if list, err := snap.ChooseVirtual(direct); len(list) != 0 || err != nil {
		t.Errorf("by endpoints: %v, %v", list, err)
	}
}

func TestVirtualExhausted(t *testing.T) {
	w, n := virtualWorld(t, 30)
	onlyOneVirtual(t, w.state.Snapshot(), n)
	if err := w.serve(31, n.ID); ReasonOf(err) != PoolExhausted {
		t.Errorf("31st service: %v", err)
	}
	if a, ok := w.state.Snapshot().Virtual(testID[ServiceID]('c', 31), n.ID); ok {
		t.Errorf("31st service has %v", a)
	}
	if err := w.serve(31, n.ID); err != nil { // it is there, and may be changed in other ways
		t.Errorf("31st service again: %v", err)
	}
}

// A block that a node claimed when the part for virtual addresses was one block stays its, and no
// service has an address of it.
func TestVirtualOutsideOldBlocks(t *testing.T) {
	w, n := virtualWorld(t, 0)
	node := w.state.Snapshot().Node(testID[NodeID]('a', 2)).clone()
	b := Block{Network: n.ID, V4: nth4(n.Subnet4, n.Bits4, n.virtualNumber()), V6: nth6(n.Subnet6, n.virtualNumber()), Claim: 1}
	node.Blocks = []Block{b}
	w.write(node.ID, NodeRecord(node))
	if len(w.state.Snapshot().Node(node.ID).Blocks) != 1 {
		t.Fatal("the node lost its block")
	}
	for i := range 15 {
		if err := w.serve(i+1, n.ID); err != nil {
			t.Fatal(err)
		}
		if a, _ := w.state.Snapshot().Virtual(testID[ServiceID]('c', i+1), n.ID); b.V4.Contains(a.V4) {
			t.Errorf("service %d has %v", i+1, a)
		}
	}
	if err := w.serve(16, n.ID); ReasonOf(err) != PoolExhausted {
		t.Errorf("16th service: %v", err)
	}
}

// A node of before there were virtual addresses, or one that takes what it likes, gets no block with
// a service's address in it, and is told whose it is. An older claim of the block stands.
func TestVirtualAgainstYoungerBlock(t *testing.T) {
	for _, older := range []bool{false, true} {
		w, n := virtualWorld(t, 12)
		var id ServiceID
		var before Attachment
		for i := range 12 { // no node claims the last block
			id = testID[ServiceID]('c', i+1)
			if before, _ = w.state.Snapshot().Virtual(id, n.ID); before.V4.Less(netip.MustParseAddr("10.0.0.240")) {
				break
			}
		}
		node := w.state.Snapshot().Node(testID[NodeID]('a', 2)).clone()
		b := Block{Network: n.ID, V4: netip.PrefixFrom(before.V4, n.Bits4).Masked(), V6: nth6(n.Subnet6, 5), Claim: w.time + 1}
		if older {
			b.Claim = 1
		}
		w.time++
		node.Blocks = []Block{b}
		w.write(node.ID, NodeRecord(node))
		snap := w.state.Snapshot()
		onlyOneVirtual(t, snap, n)
		after, _ := snap.Virtual(id, n.ID)
		held := len(snap.Node(node.ID).Blocks) == 1
		if held != older || (after == before) == older || (len(snap.Conflicts) == 0) != older {
			t.Fatalf("block older %v: held %v, the service had %s and has %s, %v", older, held, before.V4, after.V4, snap.Conflicts)
		}
		if older {
			continue
		}
		if got := snap.Explain(snap.Conflicts[0]); !strings.Contains(got, `block `+b.V4.String()+` is held by the older claim of service "s`) {
			t.Error(got)
		}
	}
}

// Whatever somebody writes, to read it costs about what as many honest records cost.
func TestVirtualIsBounded(t *testing.T) {
	snapshot := func(state *State) (d time.Duration, allocated uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now() //nolint:forbidigo // how long it takes is what is tested
		state.Snapshot()
		d = time.Since(began) //nolint:forbidigo // the same
		runtime.ReadMemStats(&after)
		return d, after.TotalAlloc - before.TotalAlloc
	}
	large := func() (*world, *Network) {
		w := newWorld(t, 1)
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "large", netip.MustParsePrefix("10.0.0.0/8"))
		if err != nil {
			t.Fatal(err)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
		return w, n
	}
	took := map[bool]time.Duration{}
	for _, same := range []bool{false, true} {
		w, n := large()
		for i := range 30_000 {
			s := testService(i + 1)
			if s.Networks = []NetworkID{n.ID}; same {
				s.Virtual = []Attachment{pairOf(n, 0)}
			}
			w.write(testID[NodeID]('a', 1), ServiceRecord(s))
		}
		took[same], _ = snapshot(&w.state)
	}
	if took[true] > 5*took[false] {
		t.Errorf("services with one address take %s, others %s", took[true], took[false])
	}
	w, n := large()
	s := testService(1)
	s.Networks = []NetworkID{n.ID}
	w.write(testID[NodeID]('a', 1), ServiceRecord(s))
	if _, allocated := snapshot(&w.state); allocated > 64<<10 {
		t.Errorf("one service on a large network takes %d bytes", allocated)
	}
	node := w.state.Snapshot().Node(testID[NodeID]('a', 1)).clone()
	w.time++
	for i := range blockLimit {
		node.Blocks = append(node.Blocks, Block{Network: n.ID, V4: nth4(n.Subnet4, n.Bits4, n.virtualNumber()+2*i), V6: nth6(n.Subnet6, i), Claim: w.time})
	}
	w.write(node.ID, NodeRecord(node))
	if held := len(w.state.Snapshot().Node(node.ID).Blocks); held != oldBlocks {
		t.Errorf("a node holds %d blocks of what is kept for virtual addresses", held)
	}
	onlyOneVirtual(t, w.state.Snapshot(), n)
}

func TestFixedVirtualIsRefused(t *testing.T) {
	w, n := virtualWorld(t, 1)
	for _, a := range []netip.Addr{pairOf(n, 3).V4, pairOf(n, 3).V6, lastOf(n.Subnet4)} {
		e := testEndpoint(1, 1, 1)
		e.Fixed = []netip.Addr{a}
		if err := w.state.Snapshot().CheckFixed(e, w.time); ReasonOf(err) != BadAddress {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// BenchmarkVirtual is about many services on one network, whose IDs are as random as those of agents.
func BenchmarkVirtual(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := newWorld(b, 1)
			n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.MustParsePrefix("10.0.0.0/12"))
			if err != nil {
				b.Fatal(err)
			}
			w.write(testID[NodeID]('a', 1), NetworkRecord(n))
			for i := range count {
				s := testService(i*2654435761%(1<<40) + 1)
				s.Networks = []NetworkID{n.ID}
				w.write(testID[NodeID]('a', 1), ServiceRecord(s))
			}
			for b.Loop() {
				w.state.Snapshot()
			}
		})
	}
}
