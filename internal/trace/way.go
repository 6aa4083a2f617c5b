package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// route is what routing says about a destination.
type route struct {
	kind    routeKind
	link    string
	next    netip.Addr // whose MAC address is asked for
	objects []Object   // what it followed from
}

type routeKind string

const (
	routeLocal       routeKind = "local"
	routeOut         routeKind = "out" // by link
	routeUnreachable routeKind = "unreachable"
	routeNone        routeKind = "none" // nothing of ours: the host's own routes decide
)

// route looks the way of a packet up: own addresses first, then what the rules for its source
// lead to, then the main table.
func (w *walk) route(src, dst netip.Addr) route {
	for _, a := range w.sandbox.Addrs {
		if a.Prefix.Addr() == dst {
			return route{kind: routeLocal, link: a.Link, objects: []Object{w.object(a)}}
		}
	}
	if w.local(dst) {
		return route{kind: routeLocal}
	}
	for _, r := range w.sandbox.Routes {
		if r.Kind == plan.RouteLocal && r.Dst.Contains(dst) {
			return route{kind: routeLocal, link: r.Link, objects: []Object{w.object(r)}}
		}
	}
	rules := slices.DeleteFunc(slices.Clone(w.sandbox.Rules), func(r plan.Rule) bool { return r.From != src })
	rules = append(rules, plan.Rule{Table: plan.MainTable}) // the kernel's own
	asked := []Object{{Sandbox: w.sandbox.Name, ref: ref{src: src}}}
	var found route
	for _, rule := range rules {
		if rule.Priority != 0 {
			asked = append(asked, w.object(rule))
		}
		found = w.lookup(rule, dst)
		asked = append(asked, found.objects...)
		if found.kind != routeNone {
			break
		}
	}
	found.objects = asked
	return found
}

// lookup is the longest prefix among the routes that a rule leads to and, in the main table, the
// addresses' own subnets.
func (w *walk) lookup(rule plan.Rule, dst netip.Addr) route {
	best, bits := route{kind: routeNone}, -1
	if rule.Longer {
		bits = 0
	}
	for _, r := range w.sandbox.Routes {
		if r.Kind == plan.RouteLocal || tableOf(r) != rule.Table || !r.Dst.Contains(dst) || r.Dst.Bits() <= bits {
			continue
		}
		bits = r.Dst.Bits()
		best = route{kind: routeOut, link: r.Link, next: dst, objects: []Object{w.object(r)}}
		if r.Kind == plan.RouteVia {
			best.next = r.Via
		}
		if r.Kind == plan.RouteUnreachable {
			best.kind = routeUnreachable
		}
	}
	for _, a := range w.sandbox.Addrs {
		if rule.Table == plan.MainTable && a.Prefix.Masked().Contains(dst) && a.Prefix.Bits() > bits {
			bits = a.Prefix.Bits()
			best = route{kind: routeOut, link: a.Link, next: dst, objects: []Object{w.object(a)}}
		}
	}
	// It also relied on no longer prefix leading elsewhere.
	best.objects = append(best.objects, Object{Sandbox: w.sandbox.Name, ref: ref{dst: dst, bits: bits}})
	return best
}

func tableOf(r plan.Route) uint32 { return cmp.Or(r.Table, plan.MainTable) }

func (w *walk) object(o fmt.Stringer) Object {
	return Object{Sandbox: w.sandbox.Name, Line: o.String()}
}

func (w *walk) noteAll(objects []Object) {
	for _, o := range objects {
		w.note(o)
	}
}

// out routes a packet that must leave by a device of ours.
func (w *walk) out(r route, dst netip.Addr) error {
	w.noteAll(r.objects)
	switch r.kind {
	case routeOut:
		return nil
	case routeUnreachable:
		return breakf("%s is unreachable: no route leads to its block", dst)
	case routeLocal, routeNone:
	}
	return breakf("no route of ours leads to %s", dst)
}

// forwarding checks that the sandbox forwards packets of the address's family,
// and does not refuse one for the device it came in by.
func (w *walk) forwarding(p *packet) error {
	key := "net/ipv4/ip_forward"
	if p.dst.Is6() {
		key = "net/ipv6/conf/all/forwarding"
	}
	if !w.setting(key, "1") {
		return breakf("the plan does not set %s", key)
	}
	if p.dst.Is4() {
		w.setting("net/ipv4/conf/all/rp_filter", "0")
		w.setting("net/ipv4/conf/"+p.iif+"/rp_filter", "0")
	}
	return nil
}

// setting notes a setting that is planned with this value, and tells whether it is.
func (w *walk) setting(key, value string) bool {
	for _, s := range w.sandbox.Sysctls {
		if ok, err := path.Match(s.Key, key); err == nil && ok && s.If == "" && s.Value == value {
			w.rely(plan.Sysctl{Key: key, Value: value}.String())
			return true
		}
	}
	return false
}

// addressOn is the address of a device that is of the same family as like.
func (w *walk) addressOn(link string, like netip.Addr) (netip.Addr, error) {
	for _, a := range w.sandbox.Addrs {
		if addr := a.Prefix.Addr(); a.Link == link && addr.Is4() == like.Is4() && addr != plan.Gateway6() {
			w.note(w.object(a))
			return addr, nil
		}
	}
	return netip.Addr{}, breakf("device %s has no address to masquerade with", link)
}

// link finds a device of the sandbox.
func (w *walk) link(name string) (plan.Link, error) {
	i := slices.IndexFunc(w.sandbox.Links, func(l plan.Link) bool { return l.Name == name })
	if i < 0 {
		return plan.Link{}, breakf("sandbox %s has no device %s", w.sandbox.Name, name)
	}
	w.note(w.object(w.sandbox.Links[i]))
	return w.sandbox.Links[i], nil
}

// send gives the packet the MAC addresses that lead to a next hop, and moves it
// over a device that is no tunnel.
func (w *walk) send(p *packet, r route) error {
	l, err := w.link(r.link)
	if err == nil {
		l, err = w.overBridge(p, l, r.next)
	}
	if err != nil {
		return err
	}
	if err := w.resolve(p, l, r.next); err != nil {
		return err
	}
	return w.cross(p, l)
}

// resolve finds a next hop's MAC address: a permanent neighbour, or the other
// end of a veth answers, for an address of its own or as proxy.
func (w *walk) resolve(p *packet, l plan.Link, next netip.Addr) error {
	p.etherSrc = l.MAC
	for _, n := range w.sandbox.Neighs {
		if n.Link == l.Name && n.IP == next {
			w.note(w.object(n))
			p.etherDst = n.MAC
			return nil
		}
	}
	if l.Kind != plan.LinkVeth {
		return breakf("device %s knows no neighbour %s", l.Name, next)
	}
	here := w.sandbox
	defer func() { w.sandbox = here }()
	if err := w.enterSandbox(l.Peer.Sandbox); err != nil {
		return err
	}
	p.etherDst = plan.MAC{} // whatever the other end has
	far, err := w.link(l.Peer.Link)
	if err != nil {
		return err
	}
	for _, a := range w.sandbox.Addrs {
		if a.Link == far.Name && a.Prefix.Addr() == next {
			w.note(w.object(a))
			return nil
		}
	}
	if next.Is4() && w.setting("net/ipv4/conf/"+l.Peer.Link+"/proxy_arp", "1") {
		w.setting("net/ipv4/neigh/"+l.Peer.Link+"/proxy_delay", "0")
		return nil
	}
	return breakf("nobody on device %s answers for %s", l.Name, next)
}

// cross moves the packet to the other end of a veth.
func (w *walk) cross(p *packet, l plan.Link) error {
	if l.Kind != plan.LinkVeth {
		return fmt.Errorf("device %s: kind %s is not known here", l.Name, l.Kind)
	}
	if err := w.enterSandbox(l.Peer.Sandbox); err != nil {
		return err
	}
	far, err := w.link(l.Peer.Link)
	if err != nil {
		return err
	}
	if far.Peer.Link != l.Name {
		return breakf("device %s is no pair with %s", far.Name, l.Name)
	}
	if p.etherDst != (plan.MAC{}) && p.etherDst != far.MAC {
		return breakf("device %s has MAC address %s, the packet is for %s", far.Name, far.MAC, p.etherDst)
	}
	p.arrive(far.Name)
	w.ipv6On(p)
	return nil
}

// ipv6On notes that the device that an IPv6 packet came by may have IPv6 at all.
func (w *walk) ipv6On(p *packet) {
	if p.dst.Is6() {
		w.setting("net/ipv6/conf/"+p.iif+"/disable_ipv6", "0")
	}
}

// tunnel is how a packet goes through VXLAN: the forwarding entry of its MAC address.
func (w *walk) tunnel(p *packet, l plan.Link) (plan.FDBEntry, error) {
	i := slices.IndexFunc(w.sandbox.FDB, func(f plan.FDBEntry) bool { return f.Link == l.Name && f.MAC == p.etherDst })
	if i < 0 {
		return plan.FDBEntry{}, breakf("device %s has no forwarding entry for %s", l.Name, p.etherDst)
	}
	w.note(w.object(w.sandbox.FDB[i]))
	return w.sandbox.FDB[i], nil
}

// receive lets the host that the packet is at accept the outer packet.
func (w *walk) receive(from netip.Addr, f plan.FDBEntry) error {
	outer := packet{
		proto: "udp", src: from, dst: f.Dst, dport: f.Port, iif: Outside, ct: ctNew, vni: f.VNI,
	}
	if err := w.hook("prerouting", &outer); err != nil {
		return err
	}
	if outer.dst != f.Dst {
		return breakf("the host sends tunnel packets on to %s: is udp/%d published?", outer.dst, f.Port)
	}
	return w.hook("input", &outer)
}

// tunnelEnd moves the packet into the sandbox whose tunnel end listens on the
// entry's VNI.
func (w *walk) tunnelEnd(f plan.FDBEntry) (plan.Link, error) {
	for _, s := range w.node.Plan.Sandboxes {
		for _, l := range s.Links {
			if l.Kind == plan.LinkVXLAN && l.VXLAN.VNI == f.VNI && l.VXLAN.Port == f.Port {
				w.sandbox = s
				return l, nil
			}
		}
	}
	return plan.Link{}, breakf("node %s has no tunnel end of vni %d", w.node.Name, f.VNI)
}

// unwrap takes the packet out of the tunnel.
func (w *walk) unwrap(p *packet, l plan.Link) error {
	w.note(w.object(l))
	if l.MAC != p.etherDst {
		return breakf("the tunnel end has MAC address %s, the packet is for %s", l.MAC, p.etherDst)
	}
	p.arrive(l.Name)
	w.ipv6On(p)
	return nil
}

// called is an endpoint's address with its name, where it has one.
func (w *walk) called(addr netip.Addr, port uint16) string {
	text := netip.AddrPortFrom(addr, port).String()
	if name := w.q.Names[addr]; name != "" {
		text += " (" + name + ")"
	}
	return text
}

// target is the destination as the key of an element.
func target(p *packet) string { return plan.Join(p.dst.String(), p.proto, fmt.Sprint(p.dport)) }

// relyOnRules notes the rules of a chain that hold a text.
func (w *walk) relyOnRules(chain, holding string) {
	for _, t := range w.sandbox.Tables {
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				if c.Name == chain && strings.Contains(rule, holding) {
					w.rely(fmt.Sprintf("chain %s: %s", chain, rule))
				}
			}
		}
	}
}
