// Package bridge is the base layer: what a single host does for its own endpoints. A bridge
// network is a bridge with a veth to each endpoint on it and one to the host, in a namespace
// that holds nothing else:
//
//	endpoint -> [slb… | sl-p…] bridge br [host | sl-b…] -> host: forward, masquerade -> world
//	client -> host, nat prerouting: (protocol, port) in hosted -> DNAT -> forward -> bridge -> endpoint
//
// An overlay's flows to the world leave the host like those of a bridge, and so do ports that
// the node answers on for an endpoint on an overlay come in:
//
//	endpoint <-> network sandbox <-> [out | sl-oVNI] <-> host <-> world
//
// That veth itself is planned with the sandbox it belongs to (package overlay). Rules are the
// same for every state of the cluster; networks, endpoints and ports are elements of sets.
package bridge

import (
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Compile adds the host's part of the base layer to p, and what the node's endpoints have on
// bridges. hosted is what the snapshot says of the node's own ports.
func Compile(local mesh.Local, snap *mesh.Snapshot, hosted mesh.Hosting, p *plan.Plan) {
	host := p.Host()
	b := builder{local: local, snap: snap, plan: p, host: host, table: host.Table("inet"), built: map[string]*mesh.Network{}, seen: map[string]bool{}}
	b.settings()
	host.User.Base = "type filter hook forward priority filter - 10; policy accept;"
	host.Pass(plan.WayOutHosts + "*")
	host.Pass(plan.BridgeLinks + "*")
	b.firewall()
	b.networks()
	b.hosted(hosted)
}

// builder holds what the base layer of one node is made from.
type builder struct {
	local mesh.Local
	snap  *mesh.Snapshot
	plan  *plan.Plan
	host  *plan.Sandbox
	table *plan.Table              // the host's
	names map[string]*mesh.Network // who has the name of a bridge
	built map[string]*mesh.Network // by the name of its bridge
	seen  map[string]bool          // what needs to be said only once
	spans plan.Spans               // what endpoints on overlays answer on, as ranges
}

// settings are those of the whole host.
func (b *builder) settings() {
	// Forwarding makes the kernel stop listening to router advertisements where
	// accept_ra is 1; a host that lives on one would lose its default route.
	for _, card := range b.local.Advertised {
		b.host.Sysctls = append(b.host.Sysctls, plan.Sysctl{Key: "net/ipv6/conf/" + card + "/accept_ra", Value: "2", If: "1"})
	}
	b.host.Sysctls = append(
		b.host.Sysctls,
		plan.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"},
		plan.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
	)
}
