package mesh

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var sameViews = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(Snapshot{}, "Rev"), cmp.AllowUnexported(Snapshot{}),
}

func TestMergeIsOrderFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		want := merged(records...)
		got := merged(shuffled(t, append(shuffled(t, records), records...))...)
		if diff := cmp.Diff(want.Records(), got.Records(), sameViews); diff != "" {
			t.Fatal(diff)
		}
		// Associative: two halves that were merged apart make the same.
		cut := rapid.IntRange(0, len(records)).Draw(t, "cut")
		left, right := merged(records[:cut]...), merged(records[cut:]...)
		for _, r := range right.Records() {
			left.Merge(r)
		}
		if diff := cmp.Diff(want.Records(), left.Records(), sameViews); diff != "" {
			t.Fatal(diff)
		}
		rev := want.Snapshot().Rev
		for _, r := range want.Records() {
			if want.Merge(r) {
				t.Fatal("merging what is there is a change")
			}
		}
		if want.Snapshot().Rev != rev {
			t.Fatal("the revision moved")
		}
	})
}

// What a state holds of a key is one of the records that came, whole: the greatest of them.
func TestMergeKeepsTheGreatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		best := map[Key]Record{}
		var s State
		for _, r := range records {
			have, had := s.Get(r.Key())
			wins := !had || compareWrites(have, r) < 0
			if changed := s.Merge(r); changed != wins {
				t.Fatalf("changed: %v, wins: %v, from %+v to %+v", changed, wins, have, r)
			}
			if wins {
				best[r.Key()] = r
			}
		}
		for k, want := range best {
			if got, _ := s.Get(k); !cmp.Equal(got, want, sameViews) {
				t.Fatal(cmp.Diff(want, got, sameViews))
			}
		}
		if len(s.Records()) != len(best) {
			t.Fatalf("%d records of %d keys", len(s.Records()), len(best))
		}
	})
}

func TestSnapshotIsOrderFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		want, got := merged(records...).Snapshot(), merged(shuffled(t, records)...).Snapshot()
		if diff := cmp.Diff(want, got, sameViews); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What a snapshot shows as held has one holder.
func TestSnapshotHoldsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := drawRecords(t)
		snap := merged(append(records, stamped(NetworkRecord(NewIngress(DefaultIngress(), DefaultPool(), 7)), 1, testID[NodeID]('a', 1)))...).Snapshot()
		for i, f := range snap.Fronts {
			for _, g := range snap.Fronts[:i] {
				if f.Port.Overlaps(g.Port) && (f.Port.Mode != Hosted || g.Port.Mode != Hosted) {
					t.Fatalf("%s of %s overlaps %s of %s", f.Port, f.Service.Name, g.Port, g.Service.Name)
				}
			}
		}
		onlyOne(t, snap)
		var built []*Network
		for _, n := range snap.Networks {
			if snap.Network(n.ID) != nil {
				for _, o := range built {
					if n.VNI == o.VNI || n.VNI == o.EntryVNI || n.EntryVNI == o.VNI || slices.ContainsFunc(n.Subnets(), o.overlaps) {
						t.Fatalf("%+v and %+v", n, o)
					}
				}
				built = append(built, n)
			}
		}
		if snap.Network(IngressNetwork) == nil {
			t.Fatal("the ingress network lost")
		}
	})
}

func (n *Network) overlaps(p netip.Prefix) bool { return slices.ContainsFunc(n.Subnets(), p.Overlaps) }

func onlyOne(t fataler, snap *Snapshot) {
	t.Helper()
	slots, blocks := map[Slot]NodeID{}, map[netip.Prefix]NodeID{}
	for _, n := range snap.Nodes {
		if other, taken := slots[n.Slot]; taken && n.Slot != 0 {
			t.Fatalf("slot %d of %s and %s", n.Slot, n.ID, other)
		}
		slots[n.Slot] = n.ID
		for _, b := range n.Blocks {
			for _, part := range []netip.Prefix{b.V4, b.V6} {
				if other, taken := blocks[part]; taken {
					t.Fatalf("block %s of %s and %s", part, n.ID, other)
				}
				blocks[part] = n.ID
			}
		}
	}
}

func TestOldestClaimHoldsPort(t *testing.T) {
	a := testID[NodeID]('a', 1)
	older, younger := stamped(ServiceRecord(testService(2, tcp(80))), 5, a), stamped(ServiceRecord(testService(1, tcp(80))), 6, a)
	older.Version.Time = 9 // changed since: the claim counts
	state := merged(younger, older)
	snap := state.Snapshot()
	if len(snap.Fronts) != 1 || snap.Fronts[0].Service.Name != "s2" {
		t.Fatalf("fronts %+v", snap.Fronts)
	}
	want := []Conflict{{Kind: KindService, ID: younger.ID, Claim: "port tcp/80", Winner: older.ID, Reason: PortTaken}}
	if diff := cmp.Diff(want, snap.Conflicts); diff != "" {
		t.Error(diff)
	}
	state.Merge(deleted(older, 10))
	if snap = state.Snapshot(); len(snap.Fronts) != 1 || snap.Fronts[0].Service.Name != "s1" || len(snap.Conflicts) != 0 {
		t.Errorf("after deletion: fronts %+v, conflicts %+v", snap.Fronts, snap.Conflicts)
	}
}

func TestOldestClaimHoldsName(t *testing.T) {
	a := testID[NodeID]('a', 1)
	first, second := testService(2), testService(1)
	first.Name, second.Name = "web", "web"
	older := stamped(ServiceRecord(first), 5, a)
	state := merged(stamped(ServiceRecord(second), 6, a), older)
	if got := state.Snapshot().ServiceNamed("web"); got != first {
		t.Errorf("got %+v", got)
	}
	state.Merge(deleted(older, 7))
	if got := state.Snapshot().ServiceNamed("web"); got != second {
		t.Errorf("after deletion %+v", got)
	}
}

// A service that is named like another one's ID does not hide that one.
func TestIDBeforeName(t *testing.T) {
	a := testID[NodeID]('a', 1)
	victim, shadow := testService(2), testService(1)
	shadow.Name = string(victim.ID)
	snap := merged(stamped(ServiceRecord(shadow), 1, a), stamped(ServiceRecord(victim), 2, a)).Snapshot()
	if got := snap.ServiceNamed(string(victim.ID)); got != victim {
		t.Errorf("got %+v", got)
	}
}

func TestNetworksThatClash(t *testing.T) {
	a := testID[NodeID]('a', 1)
	ingress := NewIngress(DefaultIngress(), DefaultPool(), 7)
	user := func(n int, subnet string, vni VNI) *Network {
		return &Network{ID: testID[NetworkID]('b', n), Name: "u", Subnet4: netip.MustParsePrefix(subnet), Subnet6: ula(uint64(100 + n)), Bits4: 26, VNI: vni}
	}
	for _, c := range []struct {
		name   string
		n      *Network
		reason Reason
	}{
		{"VNI of the ingress network", user(2, "10.2.0.0/20", ingress.VNI), VNITaken},
		{"entry VNI of the ingress network", user(2, "10.2.0.0/20", ingress.EntryVNI), VNITaken},
		{"VNI of an older one", user(2, "10.2.0.0/20", firstVNI+9), VNITaken},
		{"subnet within the ingress subnet", user(2, "198.18.16.0/20", firstVNI+5), SubnetTaken},
		{"subnet around an older one's", user(2, "10.0.0.0/8", firstVNI+5), SubnetTaken},
		{"nothing", user(2, "10.2.0.0/20", firstVNI+5), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.n.Name = "v"
			// The ingress network wins even against a claim from before its time.
			snap := merged(stamped(NetworkRecord(ingress), 9, a), stamped(NetworkRecord(user(1, "10.1.0.0/20", firstVNI+9)), 1, a), stamped(NetworkRecord(c.n), 2, a)).Snapshot()
			if built := snap.Network(c.n.ID) != nil; built != (c.reason == "") {
				t.Errorf("built: %v", built)
			}
			if snap.NetworkNamed("v") == nil || snap.Network(IngressNetwork) == nil {
				t.Error("not to be found any more")
			}
			if c.reason != "" && (len(snap.Conflicts) != 1 || snap.Conflicts[0].Reason != c.reason) {
				t.Errorf("conflicts %+v", snap.Conflicts)
			}
		})
	}
}

// A block is a route: one that is too large, or of no network, would lead packets
// away that are not its node's.
func TestHostileBlocks(t *testing.T) {
	ingress := NewIngress(DefaultIngress(), DefaultPool(), 7)
	good := ingress.block(3)
	with := func(edit func(*Block)) Block { b := ingress.block(4); edit(&b); return b }
	for name, b := range map[string]Block{
		"all of IPv4":           with(func(b *Block) { b.V4 = netip.MustParsePrefix("0.0.0.0/0") }),
		"all of the subnet":     with(func(b *Block) { b.V4 = ingress.Subnet4 }),
		"outside the subnet":    with(func(b *Block) { b.V4 = netip.MustParsePrefix("192.0.2.0/27") }),
		"too small":             with(func(b *Block) { b.V4 = netip.PrefixFrom(b.V4.Addr(), 28) }),
		"outside IPv6":          with(func(b *Block) { b.V6 = netip.MustParsePrefix("2001:db8::/64") }),
		"for virtual addresses": with(func(b *Block) { b.V4 = nth4(ingress.Subnet4, ingress.Bits4, 1<<11-1) }),
		"of no network":         with(func(b *Block) { b.Network = testID[NetworkID]('b', 1) }),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			n := testNode(2)
			n.Blocks = []Block{good, b}
			r := stamped(NodeRecord(n), w.time+1, n.ID)
			if r.Validate() != nil {
				return // refused before it is merged
			}
			w.state.Merge(r)
			if got := w.state.Snapshot().Node(n.ID).Blocks; len(got) != 1 || got[0] != good {
				t.Errorf("blocks %v", got)
			}
		})
	}
}

func TestWrittenBy(t *testing.T) {
	a := testID[NodeID]('a', 1)
	r := stamped(ServiceRecord(testService(1)), 100, a)
	if err := r.WrittenBy(100); err != nil {
		t.Error(err)
	}
	if err := r.WrittenBy(99); ReasonOf(err) != BadRecord {
		t.Error(err)
	}
	n := testNode(1)
	n.Slot, n.SlotClaim, n.Blocks = 5, 90, []Block{NewIngress(DefaultIngress(), DefaultPool(), 7).block(1)}
	n.Blocks[0].Claim = 20
	late := stamped(NodeRecord(n), 100, a)
	early := late.WrittenAt(50)
	if err := early.Validate(); err != nil {
		t.Fatal(err)
	}
	if early.Version.Time != 50 || early.Claim != 50 || early.Node.SlotClaim != 50 || early.Node.Blocks[0].Claim != 20 || n.SlotClaim != 90 {
		t.Errorf("%+v of %+v", early.Node, n)
	}
}

func TestTimeDoesNotOverflow(t *testing.T) {
	a := testID[NodeID]('a', 1)
	if r := stamped(ServiceRecord(testService(1)), 1<<64-1, a); ReasonOf(r.Validate()) != BadRecord {
		t.Error("the end of time is accepted")
	}
	last := stamped(ServiceRecord(testService(1)), timeLimit, a)
	if err := last.Validate(); err != nil {
		t.Fatal(err)
	}
	if next := Tick(merged(last).Seen(), 5); next <= timeLimit {
		t.Errorf("time went back to %d", next)
	}
}
