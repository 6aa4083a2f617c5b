package overlay

import (
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// enter lets a port that the node answers on for one endpoint in by the network's way out.
// The answer goes back there by the endpoint's default route, which is on this network.
func (c *compiler) enter(f mesh.HostedFront) {
	n := c.snap.Network(f.At.Network)
	if n == nil || n.Bridged() || len(c.self.BlocksOf(n.ID)) == 0 {
		return
	}
	c.localAlso(plan.WayOutHost(uint32(n.VNI)))
	table := c.plan.Sandbox(plan.NetworkSandbox(uint32(n.VNI)), plan.KindNetwork).Table("inet")
	name := "hosted"
	if f.Port.Last != 0 {
		name = "hosted_range"
	}
	port := plan.Ports{First: f.Port.Target, Last: f.Port.Last}.Text()
	put := func(name string, a netip.Addr) {
		if key := plan.Join(a.String(), string(f.Port.Proto), port); !c.seen[name+key] {
			c.seen[name+key] = true // two ports may lead to one target
			table.Set(name).Add(key)
		}
	}
	put(name+"4", f.At.V4)
	put(name+"6", f.At.V6)
}

// localAlso gives the host's end of a way out what it takes for the node's own processes and
// its other endpoints to call that way: an address that is masqueraded to, and answers to
// loopback addresses. (Package bridge drops everything else to such.)
func (c *compiler) localAlso(link string) {
	host := c.plan.Host()
	if slices.ContainsFunc(host.Addrs, func(a plan.Addr) bool { return a.Link == link }) {
		return
	}
	host.Addrs = append(
		host.Addrs,
		plan.Addr{Link: link, Prefix: single(plan.WayOut4())},
		plan.Addr{Link: link, Prefix: single(plan.WayOut6())},
	)
	host.Sysctls = append(host.Sysctls, plan.Sysctl{Key: "net/ipv4/conf/" + link + "/route_localnet", Value: "1"})
	host.Routes = append(host.Routes, plan.Route{Kind: plan.RouteLocal, Dst: single(netip.IPv6Loopback()), Link: link})
}
