package mesh

import (
	"net/netip"
	"slices"
)

// ranges are prefixes of which none overlaps another, each with the network that holds it. The
// zero value is empty and ready.
type ranges struct {
	list []*heldRange // by address
}

type heldRange struct {
	prefix  netip.Prefix
	network NetworkID
	order   int // in which it was added
}

// from is where the first prefix is that does not begin before a.
func (r *ranges) from(a netip.Addr) int {
	i, _ := slices.BinarySearchFunc(r.list, a, func(h *heldRange, a netip.Addr) int { return h.prefix.Addr().Compare(a) })
	return i
}

// overlapped is the network that holds a part of p, of several the one that was added first.
func (r *ranges) overlapped(p netip.Prefix) (network NetworkID, overlaps bool) {
	i := r.from(p.Addr())
	if i > 0 && r.list[i-1].prefix.Contains(p.Addr()) {
		return r.list[i-1].network, true
	}
	var first *heldRange
	for ; i < len(r.list) && p.Contains(r.list[i].prefix.Addr()); i++ {
		if first == nil || r.list[i].order < first.order {
			first = r.list[i]
		}
	}
	if first == nil {
		return "", false
	}
	return first.network, true
}

// add takes up a prefix that overlaps none.
func (r *ranges) add(p netip.Prefix, id NetworkID) {
	r.list = slices.Insert(r.list, r.from(p.Addr()), &heldRange{p, id, len(r.list)})
}
