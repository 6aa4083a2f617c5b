package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Part is one table of the data path, in all sandboxes of a kind: an nft set or map, the
// virtual servers, the backends, or the targets of flows.
type Part struct {
	Kind plan.Kind
	Name string // "inet services4", "ipvs servers", "ipvs backends", "flows"
}

// String is "ingress inet services4".
func (p Part) String() string { return string(p.Kind) + " " + p.Name }

// The parts that are no nft sets.
const (
	servers  = "ipvs servers"
	backends = "ipvs backends"
	flows    = "flows"
)

// PartsOf are the parts of a plan that hold something.
func PartsOf(p *plan.Plan) []Part {
	var parts []Part
	for _, s := range p.Sandboxes {
		for _, t := range s.Tables {
			for _, set := range t.Sets {
				if len(set.Elements) > 0 {
					parts = append(parts, Part{s.Kind, t.Family + " " + set.Name})
				}
			}
		}
		led := len(s.Flows)
		if slices.Contains(s.Flows, plan.Nowhere()) { // no flow is led; TestSwitchBackForgets is about those that were
			led = 0
		}
		for name, n := range map[string]int{servers: len(s.Virtual), backends: len(s.Backends), flows: led} {
			if n > 0 {
				parts = append(parts, Part{s.Kind, name})
			}
		}
	}
	return parts
}

// Drop takes entry number at out of the part, in each sandbox that has so many.
func (p Part) Drop(at int) Mutate {
	return func(_ string, in *plan.Plan) {
		p.each(in, func(s *plan.Set) {
			if at < len(s.Elements) {
				s.Elements = slices.Delete(slices.Clone(s.Elements), at, at+1)
			}
		}, func(s *plan.Sandbox) {
			switch {
			case p.Name == servers && at < len(s.Virtual): // its backends go with it, as they would in the kernel
				gone := s.Virtual[at]
				s.Virtual = slices.Delete(s.Virtual, at, at+1)
				s.Backends = slices.DeleteFunc(s.Backends, behind(gone))
			case p.Name == backends && at < len(s.Backends):
				s.Backends = slices.Delete(s.Backends, at, at+1)
			case p.Name == flows && at < len(s.Flows):
				s.Flows = slices.Delete(s.Flows, at, at+1)
			}
		})
	}
}

// Change makes entry number at another one.
func (p Part) Change(at int) Mutate {
	return func(_ string, in *plan.Plan) {
		p.each(in, func(s *plan.Set) { changeElement(s, at) }, func(s *plan.Sandbox) {
			switch {
			case p.Name == servers && at < len(s.Virtual):
				old := s.Virtual[at]
				for i := range s.Backends {
					if behind(old)(s.Backends[i]) {
						s.Backends[i].Mark ^= 1
					}
				}
				s.Virtual[at].Mark ^= 1
			case p.Name == backends && at < len(s.Backends):
				s.Backends[at].Port++
			case p.Name == flows && at < len(s.Flows):
				s.Flows[at].Port++
			}
		})
	}
}

func behind(v plan.VirtualServer) func(plan.Backend) bool {
	return func(b plan.Backend) bool { return b.Mark == v.Mark && plan.FamilyOf(b.Addr) == v.Family }
}

func (p Part) each(in *plan.Plan, set func(*plan.Set), other func(*plan.Sandbox)) {
	for _, s := range in.Sandboxes {
		if s.Kind != p.Kind {
			continue
		}
		for _, t := range s.Tables {
			for _, have := range t.Sets {
				if t.Family+" "+have.Name == p.Name {
					set(have)
				}
			}
		}
		other(s)
	}
}

// changeElement gives a map's element another value, and a set's element another key.
func changeElement(set *plan.Set, at int) {
	if at >= len(set.Elements) {
		return
	}
	set.Elements = slices.Clone(set.Elements)
	e := &set.Elements[at]
	if len(set.Value) > 0 {
		e.Value = otherText(set.Value, e.Value)
	} else {
		e.Key = otherText(set.Key, e.Key)
	}
}

// otherText changes the first field of an element's text.
func otherText(fields []plan.Field, text string) string {
	separator := plan.Join("", "")
	first, rest, more := strings.Cut(text, separator)
	if first = other(fields[0], first); more {
		return first + separator + rest
	}
	return first
}

// other is another value of a field.
func other(field plan.Field, text string) string {
	switch field {
	case plan.FieldIPv4, plan.FieldIPv6:
		if a, err := netip.ParseAddr(text); err == nil {
			return a.Prev().String()
		}
	case plan.FieldTarget:
		return plan.TargetText(netip.IPv6Loopback())
	case plan.FieldMAC:
		return "02:53:ff:ff:ff:ff"
	case plan.FieldProto:
		return "sctp"
	case plan.FieldWord: // nothing that is planned has one
	case plan.FieldMark:
		if n, err := strconv.ParseUint(text, 0, 32); err == nil {
			return plan.HexMark(uint32(n) ^ 1)
		}
	case plan.FieldIface:
		return "other"
	case plan.FieldPort, plan.FieldZone:
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			return strconv.FormatUint(n^1, 10)
		}
	}
	return fmt.Sprintf("%q is no %s", text, field) // the kernel will refuse it
}
