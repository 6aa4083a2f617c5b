package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// pointers answers what address ip belongs to. The name is name.network or
// name.stack.network, which the asker can look up again. An unused address of a network that
// the asker is on has no name, and nobody outside is asked for it.
func (z *Zone) pointers(a *Asker, q dns.Question, ip netip.Addr) Answer {
	sc := a.scope("")
	for _, p := range z.reverse[ip] {
		if !sc.has(p.network) {
			continue
		}
		if q.Qtype != dns.TypePTR {
			return Answer{Kind: NoData}
		}
		name := p.host.full()
		if network := z.networks[p.network].Name; network != "" {
			name += "." + lower(network)
		}
		if _, ok := dns.IsDomainName(name); !ok || p.host.hiddenFrom(a, name) {
			continue
		}
		return Answer{Kind: Found, Records: []dns.RR{&dns.PTR{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: z.ttl},
			Ptr: name + ".",
		}}}
	}
	for id, network := range z.networks {
		if sc.has(id) && slices.ContainsFunc(network.Subnets, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return Answer{Kind: NoName}
		}
	}
	return Answer{}
}

// parseReverse reads the whole reverse name of an address, in lower case and without the final
// dot (RFC 1035 3.5, RFC 3596 2.5).
func parseReverse(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		return parseReverse4(digits)
	}
	nibbles, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(nibbles) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		if i > 0 && nibbles[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		at := strings.IndexByte("0123456789abcdef", nibbles[2*i])
		if at < 0 {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(at) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}

func parseReverse4(digits string) (netip.Addr, bool) {
	parts := strings.Split(digits, ".")
	if len(parts) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || part != strconv.FormatUint(n, 10) {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}
