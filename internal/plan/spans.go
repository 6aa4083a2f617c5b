package plan

import (
	"cmp"
	"net/netip"
	"slices"
)

// Spans are ranges of ports of addresses, of which no two have a port in common however they
// were added: a set takes no ranges that overlap. The zero value has none.
type Spans struct{ of map[dialledProto][]Ports }

type dialledProto struct {
	addr  netip.Addr
	proto string
}

// Add puts a range or a single port in.
func (s *Spans) Add(p Ports) {
	if s.of == nil {
		s.of = map[dialledProto][]Ports{}
	}
	p.Last = max(p.First, p.Last)
	key := dialledProto{p.Addr, p.Proto}
	s.of[key] = append(s.of[key], p)
}

// All are the ranges, those that met or overlapped as one, in no order but by port.
func (s *Spans) All() []Ports {
	var all []Ports
	for _, spans := range s.of {
		slices.SortFunc(spans, func(a, b Ports) int { return cmp.Compare(a.First, b.First) })
		whole := spans[0]
		for _, next := range spans[1:] {
			if int(next.First) > int(whole.Last)+1 {
				all = append(all, whole)
				whole = next
			}
			whole.Last = max(whole.Last, next.Last)
		}
		all = append(all, whole)
	}
	return all
}
