package mesh

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// grow adds a subnet to a network and fails where it may not.
func (w *world) grow(id NetworkID, subnets ...string) {
	w.t.Helper()
	var list []netip.Prefix
	for _, s := range subnets {
		list = append(list, netip.MustParsePrefix(s))
	}
	snap := w.state.Snapshot()
	n, err := snap.Grow(snap.Network(id), list, w.time)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	w.write(testID[NodeID]('a', 1), NetworkRecord(n))
}

// A network that is full gives addresses again once it has another subnet, and what had one keeps it.
func TestGrowingKeepsAddresses(t *testing.T) {
	w, blue := fixedWorld(t)
	const room = 3 * 63
	for i := range room + 20 {
		w.write(testID[NodeID]('a', 1), EndpointRecord(testEndpoint(100+i, 1, 1)))
	}
	w.settleAll()
	before := w.state.Snapshot()
	if _, refused := Settle(before, testID[NodeID]('a', 1), w.time); len(refused) != 21 {
		t.Fatalf("%d refused", len(refused))
	}
	w.grow(blue.ID, "10.1.0.0/24", "fd01::/48")
	w.settleAll()
	after := w.state.Snapshot()
	settled(t, after)
	for _, e := range before.Endpoints {
		if now := after.EndpointNamed(e.Name); len(e.Attached) > 0 && !slices.Equal(now.Attached, e.Attached) {
			t.Errorf("%s had %v and has %v", e.Name, e.Attached, now.Attached)
		}
	}
}

// However a network grows: its blocks are all there, none twice, and none of those for virtual addresses is
// among them.
func TestBlocksOfGrownNetworks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 1)
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), rapid.IntRange(20, 24).Draw(t, "first")))
		if err != nil {
			t.Fatalf("%v", err)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
		for i := range rapid.IntRange(0, 4).Draw(t, "further") {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i + 1)}), rapid.IntRange(20, 24).Draw(t, "length"))
			if rapid.IntRange(0, 3).Draw(t, "six") == 0 {
				p = ula(uint64(i + 1))
			}
			w.grow(n.ID, p.String())
		}
		grown := w.state.Snapshot().Network(n.ID)
		four, six := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
		for i := range grown.blockCount() {
			b := grown.block(i)
			if half := (Block{V6: b.V6}); grown.numberOf(b) != i || grown.numberOf(half) != i {
				t.Fatalf("block %d of %+v is found at %d and %d", i, grown, grown.numberOf(b), grown.numberOf(half))
			}
			if !grown.has(b) || four[b.V4] || six[b.V6] || n.virtual4().Contains(b.V4.Addr()) {
				t.Fatalf("block %d of %+v is %v", i, grown, b)
			}
			four[b.V4], six[b.V6] = true, true
		}
		want := 0
		for _, p := range grown.Subnets4() {
			want += 1 << (grown.Bits4 - p.Bits())
		}
		if want -= n.virtualBlocks(); len(four) != want {
			t.Fatalf("%d blocks of %d", len(four), want)
		}
	})
}

// Two sides of a split choose one range, one of them for a network that is older: who claimed the
// range first holds it, and a network that lost a further subnet is built without it.
func TestFurtherSubnetIsFirstCome(t *testing.T) {
	for _, first := range []string{"the new network", "the further subnet"} {
		t.Run(first, func(t *testing.T) {
			w, blue := fixedWorld(t)
			a := testID[NodeID]('a', 1)
			halves := [2]*world{}
			for i := range halves {
				late := uint64(1000)
				if (i == 0) == (first == "the new network") {
					late = 0
				}
				halves[i] = &world{t: t, state: *merged(w.state.Records()...), time: w.time + late}
			}
			green, err := newOverlay(halves[0].state.Snapshot(), testID[NetworkID]('b', 2), "green", netip.MustParsePrefix("10.1.0.0/20"))
			if err != nil {
				t.Fatal(err)
			}
			halves[0].write(a, NetworkRecord(green))
			halves[1].grow(blue.ID, "10.1.0.0/24", "10.2.0.0/24")
			snap := merged(append(halves[0].state.Records(), halves[1].state.Records()...)...).Snapshot()
			oneOwner(t, snap)
			got := snap.Network(blue.ID).Subnets4()
			switch kept := slices.Contains(got, netip.MustParsePrefix("10.1.0.0/24")); {
			case !slices.Contains(got, netip.MustParsePrefix("10.2.0.0/24")):
				t.Errorf("blue lost what nobody else has: %v", got)
			case first == "the new network" && (kept || snap.Network(green.ID) == nil):
				t.Errorf("blue has %v, green is %v", got, snap.Network(green.ID))
			case first != "the new network" && (!kept || snap.Network(green.ID) != nil):
				t.Errorf("blue has %v, green is %v", got, snap.Network(green.ID))
			}
			if len(snap.Conflicts) != 1 || snap.Conflicts[0].Reason != SubnetTaken {
				t.Errorf("%v", snap.Conflicts)
			}
		})
	}
}

func TestFurtherSubnetsAreChecked(t *testing.T) {
	w, blue := fixedWorld(t)
	more := func(texts ...string) []Subnet {
		var list []Subnet
		for _, text := range texts {
			list = append(list, Subnet{netip.MustParsePrefix(text), 1})
		}
		return list
	}
	many := []Subnet{}
	for i := range moreLimit + 1 {
		many = append(many, Subnet{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i + 1)}), 24), 1})
	}
	for name, c := range map[string]struct {
		more []Subnet
		want Reason
	}{
		"good":           {more("10.1.0.0/24", "fd01::/48"), ""},
		"within":         {more("10.0.0.0/20"), SubnetTaken},
		"each other":     {more("10.1.0.0/20", "10.1.1.0/24"), SubnetTaken},
		"host bits":      {more("10.1.0.1/24"), BadAddress},
		"too small":      {more("10.1.0.0/25"), BadAddress},
		"loopback":       {more("127.0.0.0/8"), BadAddress},
		"none":           {[]Subnet{{netip.Prefix{}, 1}}, BadAddress},
		"mapped":         {more("::ffff:0:0/48"), BadAddress},
		"at no time":     {[]Subnet{{netip.MustParsePrefix("10.1.0.0/24"), 0}}, BadRecord},
		"in the future":  {[]Subnet{{netip.MustParsePrefix("10.1.0.0/24"), 1 << 50}}, BadRecord},
		"more than many": {many, PoolExhausted},
	} {
		n := *blue
		n.More = c.more
		if err := stamped(NetworkRecord(&n), w.time, testID[NodeID]('a', 1)).Validate(); ReasonOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What Encode makes of a network without further subnets is what earlier versions made.
	if text, err := json.Marshal(blue.More); err != nil || string(text) != "null" {
		t.Errorf("%s, %v", text, err)
	}
}
