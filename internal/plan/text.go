package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Sort puts every object into its one order, so that a plan has one text form
// whatever order its records were met in. Rules keep theirs: it has a meaning.
func (p *Plan) Sort() {
	slices.SortFunc(p.Sandboxes, CompareSandbox)
	slices.SortFunc(p.Left, func(a, b Left) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Reason, b.Reason))
	})
	for _, s := range p.Sandboxes {
		s.sort()
	}
}

func (k Kind) rank() int {
	return slices.Index([]Kind{KindNetwork, KindIngress, KindEndpoint, KindHost}, k)
}

func (s *Sandbox) sort() {
	slices.SortFunc(s.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Addrs, func(a, b Addr) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), ComparePrefix(a.Prefix, b.Prefix))
	})
	slices.SortFunc(s.Routes, func(a, b Route) int {
		return cmp.Or(compareTable(a, b), ComparePrefix(a.Dst, b.Dst), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Link, b.Link))
	})
	slices.SortFunc(s.Rules, CompareRule)
	slices.SortFunc(s.Neighs, func(a, b Neigh) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.IP.Compare(b.IP))
	})
	slices.SortFunc(s.FDB, func(a, b FDBEntry) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	slices.SortFunc(s.Virtual, func(a, b VirtualServer) int {
		if a.Mark != b.Mark { // the others are not looked at: there may be tens of thousands
			return cmp.Compare(a.Mark, b.Mark)
		}
		return cmp.Or(compareDialled(a.Dialled, b.Dialled), cmp.Compare(a.Family, b.Family))
	})
	slices.SortFunc(s.Backends, func(a, b Backend) int {
		if a.Mark != b.Mark {
			return cmp.Compare(a.Mark, b.Mark)
		}
		return cmp.Or(compareDialled(a.Dialled, b.Dialled), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	slices.SortFunc(s.Flows, CompareFlow)
	slices.Sort(s.Zones)
	slices.SortFunc(s.Passages, func(a, b Passage) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Direction, b.Direction))
	})
	slices.SortFunc(s.Tables, func(a, b *Table) int { return cmp.Compare(a.Family, b.Family) })
	for _, t := range s.AllTables() {
		for _, set := range t.Sets {
			slices.SortFunc(set.Elements, func(a, b Element) int { return cmp.Compare(a.Key, b.Key) })
		}
	}
}

// compareTable has tables that rules lead to before the others: where the default route moves, the way
// that open connections go by from then on is there.
func compareTable(a, b Route) int { return cmp.Compare(b.Table, a.Table) }

// ComparePrefix orders prefixes by address, the shorter first.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Text is the plan's one text form: a header line per sandbox, a line per
// object. It says everything that Apply uses, and is stable byte for byte.
func (p *Plan) Text() string {
	var b strings.Builder
	for _, s := range p.Sandboxes {
		s.text(&b)
	}
	for _, l := range p.Left {
		fmt.Fprintf(&b, "left out %s: %s: %s\n", l.Object, l.Reason, l.Detail)
	}
	return b.String()
}

func (s *Sandbox) text(b *strings.Builder) {
	fmt.Fprintf(b, "sandbox %s (%s)\n", s.Name, s.Kind)
	lines(b, s.Links)
	lines(b, s.Sysctls)
	lines(b, s.Addrs)
	lines(b, s.Neighs)
	lines(b, s.FDB)
	lines(b, s.Rules)
	lines(b, s.Routes)
	if s.Timeouts != (Timeouts{}) {
		fmt.Fprintf(b, "  %s\n", s.Timeouts)
	}
	lines(b, s.Virtual)
	lines(b, s.Backends)
	lines(b, s.Flows)
	lines(b, s.Zones)
	lines(b, s.Passages)
	if s.User != (User{}) {
		fmt.Fprintf(b, "  %s\n", s.User)
	}
	for _, t := range s.AllTables() {
		t.lines(b)
	}
}

func lines[T fmt.Stringer](b *strings.Builder, objects []T) {
	for _, o := range objects {
		fmt.Fprintf(b, "  %s\n", o)
	}
}

func (t *Table) lines(b *strings.Builder) {
	fmt.Fprintf(b, "  nft      table %s %s\n", t.Family, t.Called())
	for _, s := range t.Sets {
		fmt.Fprintf(b, "    %s }\n", s.declaration())
		for _, e := range s.Elements {
			fmt.Fprintf(b, "      %s\n", e)
		}
	}
	for _, c := range t.Chains {
		fmt.Fprintf(b, "    chain %s", c.Name)
		if c.Base != "" {
			fmt.Fprintf(b, " { %s }", c.Base)
		}
		b.WriteByte('\n')
		for _, r := range c.Rules {
			fmt.Fprintf(b, "      %s\n", r)
		}
	}
}

func (e Element) String() string {
	if e.Value == "" {
		return e.Key
	}
	return e.Key + " -> " + e.Value
}

func (l Link) String() string {
	text := fmt.Sprintf("link     %-10s %s", l.Name, l.Kind)
	switch l.Kind {
	case LinkVXLAN:
		text += fmt.Sprintf(" vni %d local %s port %d", l.VXLAN.VNI, l.VXLAN.Local, l.VXLAN.Port)
	case LinkVeth:
		text += fmt.Sprintf(" to %s/%s", l.Peer.Sandbox, l.Peer.Link)
	case LinkBridge:
	}
	if l.Master != "" {
		text += " of " + l.Master
	}
	if l.Isolated {
		text += " isolated"
	}
	if l.Announced {
		text += " announced"
	}
	if l.MAC != (MAC{}) {
		text += " mac " + l.MAC.String()
	}
	return text + fmt.Sprintf(" mtu %d", l.MTU)
}

func (a Addr) String() string { return fmt.Sprintf("addr     %-10s %s", a.Link, a.Prefix) }

func (r Route) String() string {
	switch r.Kind {
	case RouteVia:
		text := fmt.Sprintf("route    %s via %s dev %s", r.Dst, r.Via, r.Link)
		if r.Table != 0 {
			text += fmt.Sprintf(" table %d", r.Table)
		}
		return text
	case RouteUnreachable:
		return fmt.Sprintf("route    unreachable %s", r.Dst)
	case RouteLocal:
		return fmt.Sprintf("route    local %s dev %s", r.Dst, r.Link)
	default:
		return fmt.Sprintf("route    %s dev %s", r.Dst, r.Link)
	}
}

func (n Neigh) String() string { return fmt.Sprintf("neigh    %-10s %s is %s", n.Link, n.IP, n.MAC) }

func (f FDBEntry) String() string {
	return fmt.Sprintf("fdb      %-10s %s via %s port %d vni %d", f.Link, f.MAC, f.Dst, f.Port, f.VNI)
}

func (s Sysctl) String() string {
	text := fmt.Sprintf("sysctl   %s = %s", s.Key, s.Value)
	if s.If != "" {
		text += " where it is " + s.If
	}
	return text
}

func (t Timeouts) String() string {
	return fmt.Sprintf("ipvs     timeouts tcp %s fin %s udp %s", t.TCP, t.TCPFin, t.UDP)
}

func (v VirtualServer) String() string {
	text := fmt.Sprintf("ipvs     %s %s %s", ServerKey(v.Mark, v.Dialled), v.Family, v.Scheduler)
	if v.Flags != "" {
		text += " " + v.Flags
	}
	if v.Persistent != 0 {
		text += fmt.Sprintf(" persistent %s", v.Persistent)
	}
	return text
}

func (b Backend) String() string {
	return fmt.Sprintf("backend  %s %s weight %d", ServerKey(b.Mark, b.Dialled), netip.AddrPortFrom(b.Addr, b.Port), b.Weight)
}

// ServerKey is what packets of a virtual server are told by: "fwm 0x64ac5601", or
// "tcp 169.254.77.2:8080".
func ServerKey(mark uint32, d Dialled) string {
	if mark != 0 {
		return "fwm " + HexMark(mark)
	}
	return d.Proto + " " + d.At.String()
}

func compareDialled(a, b Dialled) int {
	return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.At.Compare(b.At))
}

// CompareSandbox is the order in which sandboxes stand in a plan and are applied.
func CompareSandbox(a, b *Sandbox) int {
	return cmp.Or(cmp.Compare(a.Kind.rank(), b.Kind.rank()), cmp.Compare(a.Name, b.Name))
}
