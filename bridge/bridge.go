// Package bridge is the base layer: what a single host does for its own
// endpoints. Here it is the way out: flows that an endpoint began leave by the
// host with the host's address, and nothing new comes in that way.
//
//	endpoint -> network sandbox -> [out | sl-oVNI] -> host: forward, masquerade -> world
//
// The veth itself is planned with the sandbox it belongs to (package overlay).
package bridge

import (
	"fmt"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Compile adds the host's part of the base layer to p.
func Compile(local mesh.Local, p *plan.Plan) {
	host := p.Host()
	// Forwarding makes the kernel stop listening to router advertisements where
	// accept_ra is 1; a host that lives on one would lose its default route.
	for _, card := range local.Advertised {
		host.Sysctls = append(host.Sysctls, plan.Sysctl{Key: "net/ipv6/conf/" + card + "/accept_ra", Value: "2", If: "1"})
	}
	host.Sysctls = append(
		host.Sysctls,
		plan.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"},
		plan.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
	)
	host.User.Base = "type filter hook forward priority filter - 10; policy accept;"
	host.Pass(plan.WayOutHosts + "*")
	table := host.Table("inet")
	bridges := table.Set("own_bridges", plan.FieldIface)
	for _, name := range local.OwnBridges {
		bridges.Add(name)
	}
	unrouted4, unrouted6 := table.Set("unrouted4", plan.FieldIface), table.Set("unrouted6", plan.FieldIface)
	for _, name := range local.Unrouted4 {
		unrouted4.Add(name)
	}
	for _, name := range local.Unrouted6 {
		unrouted6.Add(name)
	}
	table.Chain("forged", "")
	table.Chain("forward", "type filter hook forward priority filter; policy accept;").Rule(
		// A flow may begin with another program's frames, so each datagram is looked at
		// (package ingress knows the tunnels) before known flows are let go.
		"meta l4proto udp jump forged",
		"ct state established,related accept",
		// By name, not by set: the rules are there before any such device is.
		fmt.Sprintf(`oifname "%s*" ct state new counter drop`, plan.WayOutHosts),
		// A port that a bridge publishes is reached through the host, as from anywhere.
		fmt.Sprintf(`iifname "%s*" oifname @own_bridges ct status & dnat != dnat counter drop`, plan.WayOutHosts),
		// What conntrack does not know is not translated: an overlay address would leave.
		fmt.Sprintf(`iifname "%s*" ct state invalid counter drop`, plan.WayOutHosts),
		// The host forwards for the mesh's sake and is no router for its neighbours
		// because of it.
		"meta nfproto ipv4 iifname @unrouted4 oifname @unrouted4 counter drop",
		"meta nfproto ipv6 iifname @unrouted6 oifname @unrouted6 counter drop",
	)
	table.Chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;").Rule(
		fmt.Sprintf(`iifname "%s*" masquerade`, plan.WayOutHosts),
	)
}
