// Package ingress turns published ports into the routing mesh: whatever node a
// client dials, the connection reaches a ready endpoint on any node, which sees
// the client's own address. Inside a network the same balancers serve the virtual addresses
// of services (virtual.go).
//
// The path of one packet, in by node A and to an endpoint on node B:
//
//	client
//	 -> A host, nat prerouting: local address and (proto, port) in published -> DNAT to the uplink
//	 -> [sl-ingress|uplink] ingress-sbox, mangle prerouting: (address, proto, port) -> fwmark
//	 -> IPVS by fwmark: endpoint address and target port
//	 -> vx (or door, for A's own endpoints): neighbour, FDB -> underlay
//	 -> B [vx] network sandbox: sender's MAC -> conntrack zone; (endpoint, proto, port) in targets
//	 -> [ep…|sluice0] endpoint, client address kept
//
// and back: the reply's conntrack zone -> packet mark; the default route leads it
// to the way out, where netdev egress takes it off: mark -> MAC of A's tunnel end,
// fwd to vx. A's IPVS and conntrack undo the rest.
package ingress

import (
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Compile adds the mesh to p: ingress-sbox, capture on the host, and the mesh's
// part of the ingress network's sandbox where package overlay planned one.
func Compile(local mesh.Local, snap *mesh.Snapshot, balancer Balancer, p *plan.Plan) {
	self, net := snap.Node(local.ID), snap.Network(mesh.IngressNetwork)
	if self == nil || net == nil {
		return
	}
	if self.Slot == 0 {
		p.Leave(plan.NotSettled, "node "+self.Name, "it has claimed no slot yet")
		return
	}
	b := builder{
		self: self, net: net, snap: snap, held: heldBy(local.Held), gone: local.Gone, plan: p, balancer: balancer,
		mtu:  mesh.OverlayMTU(snap.Nodes),
		host: p.Host(),
		sbox: p.Sandbox(plan.IngressSandbox, plan.KindIngress),
	}
	b.leaveGone()
	fronts := b.fronts()
	b.sandbox()
	b.uplink(fronts)
	b.tunnel()
	b.firewall()
	b.hostFirewall()
	b.marks(fronts)
	b.balancer.Balance(fronts, b.entry())
	b.capture(fronts)
	if len(self.BlocksOf(net.ID)) > 0 {
		b.door()
		b.wayBack()
		b.targets()
	}
	b.virtual()
	for _, c := range snap.Conflicts {
		p.Leave(plan.Reason(c.Reason), string(c.Kind)+" "+c.ID+" "+c.Claim, snap.Explain(c))
	}
}

// builder holds what every part of the mesh on one node is made from.
type builder struct {
	self     *mesh.Node
	net      *mesh.Network
	snap     *mesh.Snapshot
	held     map[mesh.PublishedPort]string // who has a published port on this host; without targets
	gone     map[mesh.NodeID]bool          // the own node is never one of them
	plan     *plan.Plan
	balancer Balancer
	mtu      int
	host     *plan.Sandbox
	sbox     *plan.Sandbox
}

// network returns the sandbox of the ingress network on this node.
func (b *builder) network() *plan.Sandbox {
	return b.plan.Sandbox(plan.NetworkSandbox(uint32(b.net.VNI)), plan.KindNetwork)
}
