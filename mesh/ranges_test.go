package mesh

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is held: that a range overlaps is found, and by what that was added first.
func TestRangesOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var held ranges
		var all []netip.Prefix
		for range rapid.IntRange(1, 40).Draw(t, "ranges") {
			a, bits := netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), rapid.Byte().Draw(t, "c")}), rapid.IntRange(12, 24).Draw(t, "length")
			if rapid.Bool().Draw(t, "six") {
				a, bits = nth6(netip.MustParsePrefix("fd00::/48"), rapid.IntRange(0, 1<<16-1).Draw(t, "part")).Addr(), bits+32
			}
			p := netip.PrefixFrom(a, bits).Masked()
			want := NetworkID("")
			for i, q := range all {
				if p.Overlaps(q) {
					want = testID[NetworkID]('b', i)
					break
				}
			}
			got, overlaps := held.overlapped(p)
			if got != want || overlaps != (want != "") {
				t.Fatalf("%s in %v: %q instead of %q", p, all, got, want)
			}
			if !overlaps {
				held.add(p, testID[NetworkID]('b', len(all)))
				all = append(all, p)
			}
		}
	})
}
