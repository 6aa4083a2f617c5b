package overlay

import (
	"cmp"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// attach plans one interface of one endpoint: a point-to-point veth, host
// addresses on it, and a route to the gateway that exists on no device.
//
// The default route is on the ingress interface where there is one: a UDP server
// that binds no address then answers from the address it was asked on, since
// the kernel takes the source from the route. Whatever has a source address is
// answered by its interface.
func (c *compiler) attach(e *mesh.Endpoint, a mesh.Attachment, n *mesh.Network) {
	wish, _ := e.JoinedTo(n.ID)
	inside, mtu := plan.NetworkLink(uint32(n.VNI)), c.mtuOf(n)
	if n.Ingress() {
		inside = plan.IngressLink
	}
	inside = cmp.Or(wish.Interface, inside)
	outside, mac := plan.EndpointLink(a.V4), plan.MAC(wish.MAC)
	s := c.plan.Sandbox(plan.NetworkSandbox(uint32(n.VNI)), plan.KindNetwork)
	ep := c.plan.Sandbox(plan.EndpointSandbox(string(e.ID)), plan.KindEndpoint)

	s.Links = append(s.Links, plan.Link{
		Name: outside, Kind: plan.LinkVeth, MTU: mtu, Peer: plan.Peer{Sandbox: ep.Name, Link: inside, MAC: mac},
	})
	ep.Links = append(ep.Links, plan.Link{
		Name: inside, Kind: plan.LinkVeth, MAC: mac, MTU: mtu, Peer: plan.Peer{Sandbox: s.Name, Link: outside},
	})
	s.Sysctls = append(
		s.Sysctls,
		plan.Sysctl{Key: "net/ipv4/conf/" + outside + "/proxy_arp", Value: "1"},
		plan.Sysctl{Key: "net/ipv4/neigh/" + outside + "/proxy_delay", Value: "0"},
	)
	ep.Sysctls = append(ep.Sysctls, plan.Inside(inside, wish.Sysctls)...)
	s.Addrs = append(s.Addrs, plan.Addr{Link: outside, Prefix: linkLocal()})
	ep.Addrs = append(
		ep.Addrs,
		plan.Addr{Link: inside, Prefix: single(a.V4)},
		plan.Addr{Link: inside, Prefix: single(a.V6)},
	)
	s.Routes = append(
		s.Routes,
		plan.Route{Kind: plan.RouteDev, Dst: single(a.V4), Link: outside},
		plan.Route{Kind: plan.RouteDev, Dst: single(a.V6), Link: outside},
	)
	c.lead(ep, e, n, plan.Exit{Link: inside, V4: a.V4, V6: a.V6, Via4: plan.Gateway4(), Via6: plan.Gateway6()})
	table := s.Table("inet")
	table.Set("sources4", plan.FieldIface, plan.FieldIPv4).Add(outside, a.V4.String())
	table.Set("sources6", plan.FieldIface, plan.FieldIPv6).Add(outside, a.V6.String())
}

// lead plans where the interface leads to.
func (c *compiler) lead(ep *plan.Sandbox, e *mesh.Endpoint, n *mesh.Network, exit plan.Exit) {
	own, rest := c.snap.Leads(e, n.ID)
	if own {
		ep.AnsweredBy(exit)
	}
	if rest {
		ep.DefaultBy(exit)
		return
	}
	for _, dst := range n.Subnets() {
		via := exit.Via6
		if dst.Addr().Is4() {
			via = exit.Via4
		}
		ep.Routes = append(ep.Routes, plan.Route{Kind: plan.RouteVia, Dst: dst, Via: via, Link: exit.Link})
	}
}
