package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// The maps of the host's inet table that say which ports the node answers on for an endpoint of
// its own, and where that is: like Published, what makes a port answer. A range keeps its
// ports, so its map gives an address alone.
const (
	Hosted4        = "hosted4" // protocol and port, on every address
	Hosted6        = "hosted6"
	HostedAt4      = "hosted_at4" // address, protocol and port
	HostedAt6      = "hosted_at6"
	HostedRange4   = "hosted_range4" // protocol and ports, on every address
	HostedRange6   = "hosted_range6"
	HostedRangeAt4 = "hosted_range_at4" // address, protocol and ports
	HostedRangeAt6 = "hosted_range_at6"
)

// Capturing lists all sets of the host's inet table that make a port answer.
func Capturing() []string {
	return append([]string{Published, PublishedAt4, PublishedAt6}, HostedMaps()...)
}

// HostedMaps lists those of ports that the node answers on by itself.
func HostedMaps() []string {
	return []string{Hosted4, Hosted6, HostedAt4, HostedAt6, HostedRange4, HostedRange6, HostedRangeAt4, HostedRangeAt6}
}

// Ports is what a client dials: one port or a range of one protocol, on one address or, where
// Addr is the zero value, on all.
type Ports struct {
	Addr        netip.Addr
	Proto       string
	First, Last uint16 // Last is 0 where there is only one
}

// Text is how the ports stand in a set: "8000", or "8000-8010" in one of ranges.
func (p Ports) Text() string {
	if p.Last <= p.First {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// Has tells whether the address dialled may be of this family.
func (p Ports) Has(f Family) bool { return !p.Addr.IsValid() || FamilyOf(p.Addr) == f }

// The sets that say who may dial. Ports in a Sourced one are for those only whose address
// stands beside them in the Sources one of the address's family.
const (
	sourced    = "sourced"
	sourcedAt4 = "sourced_at4"
	sourcedAt6 = "sourced_at6"
	sources4   = "sources4"
	sources6   = "sources6"
	sourcesAt4 = "sources_at4"
	sourcesAt6 = "sources_at6"
)

// Sourced is the chain of the host's inet table that drops packets for published ports from
// whoever may not dial them. It is asked before anything is translated.
func (t *Table) Sourced() *Chain {
	rangesOf := func(name string, key ...Field) { t.Set(name, key...).Ranges = true }
	rangesOf(sourced, FieldProto, FieldPort)
	rangesOf(sourcedAt4, FieldIPv4, FieldProto, FieldPort)
	rangesOf(sourcedAt6, FieldIPv6, FieldProto, FieldPort)
	rangesOf(sources4, FieldProto, FieldPort, FieldIPv4)
	rangesOf(sources6, FieldProto, FieldPort, FieldIPv6)
	rangesOf(sourcesAt4, FieldIPv4, FieldProto, FieldPort, FieldIPv4)
	rangesOf(sourcesAt6, FieldIPv6, FieldProto, FieldPort, FieldIPv6)
	c := t.Chain(sourced, "")
	if len(c.Rules) > 0 {
		return c
	}
	const ports, port4, port6 = "meta l4proto . th dport", "ip daddr . meta l4proto . th dport", "ip6 daddr . meta l4proto . th dport"
	c.Rule(
		fmt.Sprintf("meta nfproto ipv4 %[1]s @%[2]s %[1]s . ip saddr != @%[3]s counter drop", ports, sourced, sources4),
		fmt.Sprintf("meta nfproto ipv6 %[1]s @%[2]s %[1]s . ip6 saddr != @%[3]s counter drop", ports, sourced, sources6),
		fmt.Sprintf("%[1]s @%[2]s %[1]s . ip saddr != @%[3]s counter drop", port4, sourcedAt4, sourcesAt4),
		fmt.Sprintf("%[1]s @%[2]s %[1]s . ip6 saddr != @%[3]s counter drop", port6, sourcedAt6, sourcesAt6),
	)
	return c
}

// AdmitOnly lets nobody but those with an address in one of the prefixes dial the ports. None
// of the prefixes is inside another.
func (t *Table) AdmitOnly(p Ports, from []netip.Prefix) {
	t.Sourced()
	key, names := []string{p.Proto, p.Text()}, map[Family]string{IPv4: sources4, IPv6: sources6}
	what := sourced
	if p.Addr.IsValid() {
		key = append([]string{p.Addr.String()}, key...)
		names = map[Family]string{IPv4: sourcesAt4, IPv6: sourcesAt6}
		what = map[Family]string{IPv4: sourcedAt4, IPv6: sourcedAt6}[FamilyOf(p.Addr)]
	}
	t.Set(what).Add(key...)
	for _, prefix := range from {
		if f := FamilyOf(prefix.Addr()); p.Has(f) {
			t.Set(names[f]).Add(append(slices.Clone(key), addressRange(prefix))...)
		}
	}
}

// addressRange is a prefix from its first to its last address.
func addressRange(p netip.Prefix) string {
	first := p.Masked().Addr()
	if p.IsSingleIP() {
		return first.String()
	}
	last := first.AsSlice()
	for i := p.Bits(); i < first.BitLen(); i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	end, _ := netip.AddrFromSlice(last)
	return first.String() + "-" + end.String()
}
