package plan

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Whatever was added is in exactly one range, and nothing else is.
func TestSpans(t *testing.T) {
	addrs := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	rapid.Check(t, func(t *rapid.T) {
		want := map[Ports]bool{} // by single port
		var s Spans
		for range rapid.IntRange(0, 8).Draw(t, "ranges") {
			p := Ports{Addr: rapid.SampledFrom(addrs).Draw(t, "addr"), Proto: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "proto")}
			p.First = uint16(rapid.IntRange(65500, 65535).Draw(t, "first"))
			p.Last = uint16(rapid.IntRange(int(p.First), 65535).Draw(t, "last"))
			for port := int(p.First); port <= int(p.Last); port++ {
				want[Ports{Addr: p.Addr, Proto: p.Proto, First: uint16(port)}] = true
			}
			if p.Last == p.First {
				p.Last = 0 // a single port is written so too
			}
			s.Add(p)
		}
		for _, p := range s.All() {
			for port := int(p.First); port <= int(p.Last); port++ {
				one := Ports{Addr: p.Addr, Proto: p.Proto, First: uint16(port)}
				if !want[one] {
					t.Fatalf("%v is in two ranges or was never added", one)
				}
				delete(want, one)
			}
		}
		if len(want) > 0 {
			t.Fatalf("missing: %v", want)
		}
	})
}
