package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Sources are prefixes in their canonical text, sorted, none inside another, joined by commas;
// empty: everybody. It is text so that a PublishedPort can be compared.
type Sources string

// sourceLimit is how many prefixes one published port has at most: each is an element on every node.
const sourceLimit = 64

// ParseSources reads prefixes and addresses that are joined by commas. Empty text is everybody.
func ParseSources(text string) (Sources, error) {
	if text == "" {
		return "", nil
	}
	var all []netip.Prefix
	for one := range strings.SplitSeq(text, ",") {
		p, err := parseSource(one)
		if err != nil {
			return "", err
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	// In this order a prefix comes after the one that it is in.
	var kept []string
	var last netip.Prefix
	for _, p := range all {
		if last.IsValid() && last.Contains(p.Addr()) {
			continue
		}
		last = p
		kept = append(kept, p.String())
	}
	if len(kept) > sourceLimit {
		return "", Refuse(BadPublish, "let larger prefixes in, or filter in the chain for your own rules", "%d sources of one port are too many, the limit is %d", len(kept), sourceLimit)
	}
	return Sources(strings.Join(kept, ",")), nil
}

func parseSource(text string) (netip.Prefix, error) {
	const do = "write a source like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1"
	p, err := netip.ParsePrefix(text)
	if a, aErr := netip.ParseAddr(text); aErr == nil && a.Zone() == "" {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, Refuse(BadPublish, do, "%.60q is no prefix", text)
	case p.Masked() != p:
		return netip.Prefix{}, Refuse(BadPublish, "write "+p.Masked().String()+", or only the address", "source %s has host bits", p)
	default:
		return p, nil
	}
}

// Prefixes are the sources, sorted; none: everybody.
func (s Sources) Prefixes() []netip.Prefix {
	if s == "" {
		return nil
	}
	var list []netip.Prefix
	for text := range strings.SplitSeq(string(s), ",") {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p)
		}
	}
	return list
}
