package ingress

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// virtual adds, to the sandbox of each user overlay that package overlay planned, what
// balances the virtual addresses of the services on it.
//
// The path of one packet from an endpoint here to a service:
//
//	caller: virtual address and any port
//	 -> [ep…] its own network sandbox, mangle prerouting: address -> mark; the address is local there
//	 -> the balancer by mark: an endpoint's address, the port kept
//	 -> vx or ep…: straight to the endpoint, which sees the caller's address
//
// A reply comes back to this sandbox, which the caller is behind, and is undone here: no other
// node knows of the choice. Echo is answered by the sandbox itself.
func (b *builder) virtual() {
	on := map[mesh.NetworkID][]*mesh.Service{}
	for _, s := range b.snap.Services {
		for _, id := range s.Networks {
			on[id] = append(on[id], s)
		}
	}
	here := map[mesh.NetworkID][]mesh.Attachment{}
	for _, e := range b.snap.Local(b.self.ID) {
		for _, a := range e.Attached {
			here[a.Network] = append(here[a.Network], a)
		}
	}
	planned := map[string]*plan.Sandbox{}
	for _, s := range b.plan.Sandboxes {
		planned[s.Name] = s
	}
	for _, n := range b.snap.Networks {
		s := planned[plan.NetworkSandbox(uint32(n.VNI))]
		// Where endpoints do not reach each other they reach no service either.
		if s == nil || n.Ingress() || n.Bridged() || n.Apart || len(b.self.BlocksOf(n.ID)) == 0 {
			continue
		}
		i := inside{builder: b, net: n, here: here[n.ID], parts: b.parts(n), at: Site{
			Sandbox: s, Clients: callers(), Backends: fmt.Sprintf(`oifname != "%s"`, plan.WayOut),
			Tracked: true, KeepsPort: true,
		}}
		i.build(on[n.ID])
	}
}

// callers are the devices of a network's own endpoints.
func callers() string { return `"` + plan.EndpointLinks + `*"` }

// inside makes the virtual addresses of one network on one node.
type inside struct {
	*builder
	net   *mesh.Network
	here  []mesh.Attachment // the node's endpoints on it
	parts []netip.Prefix
	at    Site
}

func (i *inside) build(services []*mesh.Service) {
	table := i.at.Sandbox.Table("inet")
	fronts := i.fronts(services)
	i.mark(table, fronts)
	for _, part := range i.parts {
		// All of them with one route. No device has such an address: it would be chosen as
		// the source of ICMP errors made here.
		i.at.Sandbox.Routes = append(i.at.Sandbox.Routes, plan.Route{Kind: plan.RouteLocal, Dst: part, Link: plan.Tunnel})
		i.at.Dialled = append(i.at.Dialled, fmt.Sprintf("iifname %s ct direction original ct original %s daddr %s", callers(), plan.FamilyOf(part.Addr()), part))
	}
	i.balancer.Balance(fronts, i.at)
	i.admit(table)
	i.hairpin(table)
}

// fronts are the services' virtual addresses. One of a service without a ready endpoint
// refuses.
func (i *inside) fronts(services []*mesh.Service) []Front {
	marks := newMarks(len(services))
	fronts := make([]Front, 0, len(services))
	for _, s := range services {
		address, ok := i.snap.Virtual(s.ID, i.net.ID)
		if !ok {
			continue
		}
		f := Front{
			Front: mesh.Front{Service: s}, Mark: marks.of(mesh.PublishedPort{Addr: address.V4}),
			At4: address.V4, At6: address.V6, Backends: i.backends(s, i.net),
		}
		if len(f.Backends) == 0 {
			i.plan.Leave(plan.NoReadyEndpoint, "service "+s.Name+" on network "+i.net.Name, i.whyNone(s))
		}
		fronts = append(fronts, f)
	}
	return fronts
}

// mark gives what is addressed to a service its mark, and keeps the addresses from everybody
// but the network's endpoints here: a peer has its own.
func (i *inside) mark(table *plan.Table, fronts []Front) {
	four := table.Map("virtual4", plan.FieldMark, plan.FieldIPv4)
	six := table.Map("virtual6", plan.FieldMark, plan.FieldIPv6)
	four.Elements, six.Elements = slices.Grow(four.Elements, len(fronts)), slices.Grow(six.Elements, len(fronts))
	for _, f := range fronts {
		if len(f.Backends) > 0 {
			four.Put(plan.HexMark(f.Mark), f.At4.String())
			six.Put(plan.HexMark(f.Mark), f.At6.String())
		}
	}
	table.Chain("virtual", "type filter hook prerouting priority mangle; policy accept;").Rule(
		fmt.Sprintf("iifname %s meta mark set ip daddr map @virtual4", callers()),
		fmt.Sprintf("iifname %s meta mark set ip6 daddr map @virtual6", callers()),
	)
	for _, part := range i.parts {
		table.Chain("antispoof", "").Rule(fmt.Sprintf("iifname != %s %s counter drop", callers(), towards(part)))
	}
}

// parts are what the network keeps for virtual addresses, without the blocks in there that nodes
// have held since before it was kept.
func (b *builder) parts(of *mesh.Network) []netip.Prefix {
	var held []netip.Prefix
	for _, n := range b.snap.Nodes {
		for _, block := range n.BlocksOf(of.ID) {
			held = append(held, block.V4, block.V6)
		}
	}
	var parts []netip.Prefix
	for _, part := range of.VirtualParts() {
		parts = append(parts, without(part, slices.DeleteFunc(slices.Clone(held), func(h netip.Prefix) bool { return !h.Overlaps(part) }))...)
	}
	return parts
}

// without are the largest prefixes of p that none of the others overlaps.
func without(p netip.Prefix, others []netip.Prefix) []netip.Prefix {
	if !slices.ContainsFunc(others, p.Overlaps) {
		return []netip.Prefix{p}
	}
	if slices.ContainsFunc(others, func(o netip.Prefix) bool { return o.Overlaps(p) && o.Bits() <= p.Bits() }) {
		return nil
	}
	half := p.Bits() + 1
	low := netip.PrefixFrom(p.Addr(), half)
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 1 << (7 - p.Bits()%8)
	high, _ := netip.AddrFromSlice(bytes)
	return append(without(low, others), without(netip.PrefixFrom(high, half), others)...)
}

// towards matches packets to a prefix.
func towards(p netip.Prefix) string { return fmt.Sprintf("%s daddr %s", plan.FamilyOf(p.Addr()), p) }

// admit lets the balancer have what is for a service with somebody behind it, and refuses at
// once what is for one without, or for an address that no service has.
func (i *inside) admit(table *plan.Table) {
	input, forward := i.balancer.Admits(i.at)
	// Before the rules for echo and for what is established.
	nobody := table.Chain("nobody", "type filter hook input priority -1; policy accept;")
	last := table.Chain("input", "")
	last.Rule(input...)
	for _, part := range i.parts {
		refused := []string{towards(part) + " meta l4proto tcp counter reject with tcp reset", towards(part) + " counter reject"}
		for _, rule := range refused {
			nobody.Rule("meta mark 0 " + rule)
		}
		last.Rule(refused...) // by nftables: none of its backends takes new connections
	}
	// Before established connections are let through.
	table.Chain("lost", "type filter hook forward priority -1; policy accept;").Rule(forward...)
}

// hairpin gives a call that lands on the caller itself another source: it would not answer to
// its own address by the network. Nobody else's source is changed.
func (i *inside) hairpin(table *plan.Table) {
	four := table.Set("own4", plan.FieldIPv4, plan.FieldIPv4)
	six := table.Set("own6", plan.FieldIPv6, plan.FieldIPv6)
	for _, a := range i.here {
		four.Add(a.V4.String(), a.V4.String())
		six.Add(a.V6.String(), a.V6.String())
	}
	own := i.self.BlocksOf(i.net.ID)[0]
	// Null bindings for all others: a call to an endpoint by its own address may have the
	// ports of one by the service's, and conntrack then gives it another source port.
	table.Chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;").Rule(
		fmt.Sprintf("ip saddr . ip daddr @own4 snat ip to %s", own.Gateway4()),
		fmt.Sprintf("ip6 saddr . ip6 daddr @own6 snat ip6 to %s", own.Gateway6()),
	)
}
