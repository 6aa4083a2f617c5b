package plan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Admission says who may dial which ports: what AdmitOnly has put into a table, read back. It
// answers as the chain Sourced does.
type Admission struct{ asked, let gates }

// gates are elements that are looked up by protocol and port.
type gates struct {
	one  map[gatePort][]gate
	many []gate // for a range of ports
}

type gatePort struct {
	proto string
	port  uint16
}

// gate is one element. at is the zero value where the ports are those of every address; from and
// to are, where the element is about no sender.
type gate struct {
	proto       string
	first, last uint16
	at          netip.Addr
	from, to    netip.Addr
}

// Admitting tells whether a set is one of those that an Admission is read from.
func Admitting(set string) bool { return gating(set) || slices.Contains(sourcesSets(), set) }

func gating(set string) bool { return set == sourced || set == sourcedAt4 || set == sourcedAt6 }

func sourcesSets() []string { return []string{sources4, sources6, sourcesAt4, sourcesAt6} }

// AdmissionOf reads the sets of the host's inet table.
func AdmissionOf(sets []*Set) Admission {
	a := Admission{gates{one: map[gatePort][]gate{}}, gates{one: map[gatePort][]gate{}}}
	for _, s := range sets {
		if !Admitting(s.Name) {
			continue
		}
		for _, e := range s.Elements {
			g, ok := gateOf(s.Key, e.Key)
			switch {
			case !ok:
			case gating(s.Name):
				a.asked.add(g)
			default:
				a.let.add(g)
			}
		}
	}
	return a
}

func gateOf(fields []Field, key string) (g gate, ok bool) {
	parts := strings.Split(key, Join("", ""))
	if len(parts) != len(fields) {
		return g, false
	}
	ported := false
	for i, f := range fields {
		low, high, isRange := strings.Cut(parts[i], "-")
		if !isRange {
			high = low
		}
		switch f {
		case FieldProto:
			g.proto = low
		case FieldPort:
			first, err1 := strconv.ParseUint(low, 10, 16)
			last, err2 := strconv.ParseUint(high, 10, 16)
			if err1 != nil || err2 != nil {
				return g, false
			}
			g.first, g.last, ported = uint16(first), uint16(last), true
		default:
			first, err1 := netip.ParseAddr(low)
			last, err2 := netip.ParseAddr(high)
			if err1 != nil || err2 != nil {
				return g, false
			}
			if ported { // what stands behind the port is the sender
				g.from, g.to = first, last
			} else {
				g.at = first
			}
		}
	}
	return g, ported
}

func (s *gates) add(g gate) {
	if g.first != g.last {
		s.many = append(s.many, g)
		return
	}
	key := gatePort{g.proto, g.first}
	s.one[key] = append(s.one[key], g)
}

// has looks for an element of at about the protocol, the port and the sender.
func (s *gates) has(proto string, at netip.Addr, port uint16, sender netip.Addr) bool {
	is := func(g gate) bool {
		return g.at == at && (!g.from.IsValid() || g.from.Compare(sender) <= 0 && sender.Compare(g.to) <= 0)
	}
	return slices.ContainsFunc(s.one[gatePort{proto, port}], is) ||
		slices.ContainsFunc(s.many, func(g gate) bool { return g.proto == proto && g.first <= port && port <= g.last && is(g) })
}

// Empty tells whether everybody may dial everything.
func (a *Admission) Empty() bool { return len(a.asked.one)+len(a.asked.many) == 0 }

// Refuses tells whether a sender may not dial a port.
func (a *Admission) Refuses(proto string, dialled netip.AddrPort, sender netip.Addr) bool {
	for _, at := range []netip.Addr{{}, dialled.Addr()} {
		if a.asked.has(proto, at, dialled.Port(), sender) && !a.let.has(proto, at, dialled.Port(), sender) {
			return true
		}
	}
	return false
}
