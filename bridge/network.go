package bridge

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// networks builds the bridge of each network that an endpoint of this node is on, and the
// endpoints' interfaces there.
func (b *builder) networks() {
	b.declare()
	owners := b.cards()
	b.names = b.named()
	for _, e := range b.snap.Local(b.local.ID) {
		for _, a := range e.Attached {
			if n := b.snap.Network(a.Network); n != nil && n.Bridged() && b.raise(n) && b.ownCard(e, a, n, owners) {
				b.attach(e, a, n)
			}
		}
	}
}

// declare makes the sets, which are there without a network too.
func (b *builder) declare() {
	own := b.table.Set("own_bridges", plan.FieldIface)
	for _, name := range b.local.OwnBridges {
		own.Add(name)
	}
	b.table.Set("together", plan.FieldIface, plan.FieldIface)
	b.table.Set("internal_bridges", plan.FieldIface)
	b.table.Set("routed_bridges", plan.FieldIface)
	b.table.Set("bridged4", plan.FieldIPv4)
	b.table.Set("bridged6", plan.FieldIPv6)
	b.table.Set("bridge_sources4", plan.FieldIface, plan.FieldIPv4)
	b.table.Set("bridge_sources6", plan.FieldIface, plan.FieldIPv6)
}

// raise plans the bridge of a network once. It tells whether the network has one: of two whose
// bridges would have one name, the network of the lesser ID.
func (b *builder) raise(n *mesh.Network) bool {
	name := plan.BridgeLink(string(n.ID))
	if other := b.names[name]; other.ID != n.ID {
		b.plan.Leave(plan.NameTaken, "network "+n.Name, fmt.Sprintf("its bridge would be called %s, as that of network %s: remove it and make it anew", name, other.Name))
		return false
	}
	if b.built[name] != nil {
		return true
	}
	b.built[name] = n
	b.span(n, name)
	b.host.Addrs = append(
		b.host.Addrs,
		plan.Addr{Link: name, Prefix: netip.PrefixFrom(n.Gateway4, n.Subnet4.Bits())},
		plan.Addr{Link: name, Prefix: netip.PrefixFrom(n.Gateway6, n.Subnet6.Bits())},
	)
	b.host.Sysctls = append(
		b.host.Sysctls,
		plan.WithIPv6(name),
		plan.LocalNet(name),
		plan.Sysctl{Key: "net/ipv6/conf/" + name + "/accept_ra", Value: "0"},  // a workload is no router
		plan.Sysctl{Key: "net/ipv6/conf/" + name + "/accept_dad", Value: "0"}, // its addresses are ours, and must speak at once
	)
	b.table.Set("own_bridges").Add(name)
	b.table.Set("gateways4").Add(n.Gateway4.String())
	b.table.Set("gateways6").Add(n.Gateway6.String())
	if !n.Apart {
		b.table.Set("together").Add(name, name)
		b.lockAdds("together", name, name)
	}
	if n.Internal {
		b.table.Set("internal_bridges").Add(name)
	}
	if n.Routed {
		b.table.Set("routed_bridges").Add(name)
		b.lockAdds("routed_bridges", name)
	}
	return true
}

// span plans the bridge itself, in a namespace of its own with rules for frames alone, and the host's
// interface on it. In the host's namespace its frames would be put to the host's rules as
// packets where br_netfilter is on (as Docker has it): translated on the bridge, an answer to
// ::1 is lost, and isolated ports keep endpoints from their own published port.
func (b *builder) span(n *mesh.Network, name string) {
	s := b.plan.Sandbox(plan.BridgeSandbox(string(n.ID)), plan.KindNetwork)
	// Nobody speaks to the bridge: it needs no address, not even a link-local one.
	s.Sysctls = append(s.Sysctls, plan.Sysctl{Key: "net/ipv6/conf/*/disable_ipv6", Value: "1"})
	mac := plan.BridgedMAC(n.Gateway4)
	s.Links = append(
		s.Links,
		plan.Link{Name: plan.Bridge, Kind: plan.LinkBridge, MTU: b.mtu(n)},
		plan.Link{
			Name: plan.BridgeHost, Kind: plan.LinkVeth, MTU: b.mtu(n), Master: plan.Bridge,
			Peer: plan.Peer{Sandbox: b.host.Name, Link: name, MAC: mac},
		},
	)
	frames(s.Table("bridge"))
	b.host.Links = append(b.host.Links, plan.Link{
		Name: name, Kind: plan.LinkVeth, MAC: mac, MTU: b.mtu(n),
		Peer: plan.Peer{Sandbox: s.Name, Link: plan.BridgeHost},
	})
}

// named finds, for the name of each bridge, the network that has it: of two the one of the lesser ID.
func (b *builder) named() map[string]*mesh.Network {
	named := map[string]*mesh.Network{}
	for _, n := range b.snap.Networks {
		if !n.Bridged() || b.snap.Network(n.ID) == nil {
			continue
		}
		name := plan.BridgeLink(string(n.ID))
		if other := named[name]; other == nil || n.ID < other.ID {
			named[name] = n
		}
	}
	return named
}

// mtu of a bridge is what was asked for, otherwise that of the node's cards.
func (b *builder) mtu(n *mesh.Network) int { return cmp.Or(n.MTU, b.snap.Node(b.local.ID).MTU) }

// attach plans one endpoint's interface on a bridge.
func (b *builder) attach(e *mesh.Endpoint, a mesh.Attachment, n *mesh.Network) {
	link, port := plan.BridgeLink(string(n.ID)), plan.BridgePort(string(e.ID), string(n.ID))
	wish, _ := e.JoinedTo(n.ID)
	inside := cmp.Or(wish.Interface, plan.BridgedLink(string(n.ID)))
	mac := cmp.Or(plan.MAC(wish.MAC), plan.BridgedMAC(a.V4))
	ep := b.plan.Sandbox(plan.EndpointSandbox(string(e.ID)), plan.KindEndpoint)
	s := b.plan.Sandbox(plan.BridgeSandbox(string(n.ID)), plan.KindNetwork)
	s.Links = append(s.Links, plan.Link{
		Name: port, Kind: plan.LinkVeth, MTU: b.mtu(n), Master: plan.Bridge, Isolated: n.Apart,
		Peer: plan.Peer{Sandbox: ep.Name, Link: inside, MAC: mac},
	})
	ep.Links = append(ep.Links, plan.Link{
		Name: inside, Kind: plan.LinkVeth, MAC: mac, MTU: b.mtu(n), Announced: true,
		Peer: plan.Peer{Sandbox: s.Name, Link: port},
	})
	ep.Sysctls = append(ep.Sysctls, plan.Inside(inside, wish.Sysctls)...)
	ep.Addrs = append(
		ep.Addrs,
		plan.Addr{Link: inside, Prefix: netip.PrefixFrom(a.V4, n.Subnet4.Bits())},
		plan.Addr{Link: inside, Prefix: netip.PrefixFrom(a.V6, n.Subnet6.Bits())},
	)
	exit := plan.Exit{Link: inside, V4: a.V4, V6: a.V6, Via4: n.Gateway4, Via6: n.Gateway6}
	own, rest := b.snap.Leads(e, n.ID)
	if own {
		ep.AnsweredBy(exit)
	}
	if rest {
		ep.DefaultBy(exit)
	}
	speaks(s.Table("bridge"), port, mac, a.V4, a.V6)
	b.table.Set("bridge_sources4").Add(link, a.V4.String())
	b.table.Set("bridge_sources6").Add(link, a.V6.String())
	if !n.Routed {
		b.table.Set("bridged4").Add(a.V4.String())
		b.table.Set("bridged6").Add(a.V6.String())
	}
}
