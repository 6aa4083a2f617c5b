// Package overlay turns networks into sandboxes: one namespace per overlay
// network that has endpoints on this node, the ingress network included.
//
// The path of one frame between endpoints of a user network:
//
//	endpoint a: default or subnet route via 169.254.1.1, answered by proxy ARP
//	 -> [sl…|ep…] network sandbox: forward chain, route to the peer's block
//	 -> vx: permanent neighbour and FDB entry of the peer -> underlay
//	 -> vx on the peer: source must belong to the sending tunnel end
//	 -> /32 route -> [ep…|sl…] endpoint b
//
// Endpoints are routed, there is no bridge. State grows with nodes and blocks,
// never with endpoints elsewhere.
package overlay

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Compile adds the sandbox of every network that has settled endpoints on this
// node, and the endpoints' own links, addresses and routes. hosted is what the snapshot says of
// the node's own ports.
func Compile(local mesh.Local, snap *mesh.Snapshot, hosted mesh.Hosting, p *plan.Plan) {
	self := snap.Node(local.ID)
	if self == nil || self.Slot == 0 {
		return
	}
	c := compiler{self: self, snap: snap, plan: p, mtu: mesh.OverlayMTU(snap.Nodes), seen: map[string]bool{}, spans: map[string]*plan.Spans{}}
	for _, e := range snap.Local(local.ID) {
		if !c.endpoint(e) {
			p.Leave(plan.NotSettled, "endpoint "+e.Name, "it has no address on any network yet")
		}
	}
	for _, f := range hosted.Held {
		c.enter(f)
	}
	c.entries()
}

// compiler makes the node's overlays.
type compiler struct {
	self *mesh.Node
	snap *mesh.Snapshot
	plan *plan.Plan
	mtu  int             // what fits between all nodes
	seen map[string]bool // what needs to be said only once

	spans map[string]*plan.Spans // by sandbox
}

// mtuOf is what was asked for, as far as it fits.
func (c *compiler) mtuOf(n *mesh.Network) int {
	if n.MTU == 0 {
		return c.mtu
	}
	return min(n.MTU, c.mtu)
}

// endpoint attaches an endpoint to its overlays, and tells whether it is on any network.
func (c *compiler) endpoint(e *mesh.Endpoint) bool {
	placed := false
	for _, a := range e.Attached {
		n := c.snap.Network(a.Network)
		switch {
		case n == nil:
			continue
		case n.Bridged(): // package bridge
			placed = true
			continue
		case len(c.self.BlocksOf(a.Network)) == 0:
			continue
		}
		placed = true
		name := plan.NetworkSandbox(uint32(n.VNI))
		if s := c.plan.Sandbox(name, plan.KindNetwork); len(s.Links) == 0 {
			b := builder{self: c.self, net: n, mtu: c.mtuOf(n), s: s}
			b.sandbox(c.snap)
			if !n.Internal {
				b.wayOut(c.plan.Host())
			}
		}
		c.attach(e, a, n)
	}
	return placed
}

// builder makes one network's sandbox on one node.
type builder struct {
	self *mesh.Node
	net  *mesh.Network
	mtu  int
	s    *plan.Sandbox
}

func (b *builder) sandbox(snap *mesh.Snapshot) {
	b.s.Sysctls = append(b.s.Sysctls, sysctls()...)
	b.tunnel()
	if !b.net.Ingress() {
		b.peers(snap)
	}
	for _, subnet := range b.net.Subnets() {
		// An address that nobody has is refused here, instead of going to the host.
		b.s.Routes = append(b.s.Routes, plan.Route{Kind: plan.RouteUnreachable, Dst: subnet})
	}
	b.firewall(snap)
}

// sysctls are those of every sandbox that forwards.
func sysctls() []plan.Sysctl {
	return []plan.Sysctl{
		{Key: "net/ipv4/ip_forward", Value: "1"},
		{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
		plan.WithIPv6("*"),
		// A new namespace copies the first one's setting to each device; anti-spoofing here is
		// by set, and replies to a mesh client come in where no route points.
		{Key: "net/ipv4/conf/*/rp_filter", Value: "0"},
		{Key: "net/ipv6/conf/*/accept_dad", Value: "0"},
		{Key: "net/ipv6/conf/*/accept_ra", Value: "0"}, // a workload is no router
		// Every path MTU message counts: each sender needs its own.
		{Key: "net/ipv4/icmp_ratelimit", Value: "0"},
		{Key: "net/ipv6/icmp/ratelimit", Value: "0"},
	}
}

// wayOut is the veth to the host: the sandbox's default route, and the host's
// routes into the blocks, which are for replies. Both ends know each other's
// MAC, so that no packet ever waits for ARP.
func (b *builder) wayOut(host *plan.Sandbox) {
	hostLink := plan.WayOutHost(uint32(b.net.VNI))
	near := plan.VethMAC(plan.NearSandbox)
	far := plan.VethMAC(plan.NearHost)
	b.s.Links = append(b.s.Links, plan.Link{
		Name: plan.WayOut, Kind: plan.LinkVeth, MAC: near, MTU: b.self.MTU,
		Peer: plan.Peer{Sandbox: host.Name, Link: hostLink, MAC: far},
	})
	host.Links = append(host.Links, plan.Link{
		Name: hostLink, Kind: plan.LinkVeth, MAC: far, MTU: b.self.MTU,
		Peer: plan.Peer{Sandbox: b.s.Name, Link: plan.WayOut, MAC: near},
	})
	b.s.Neighs = append(
		b.s.Neighs,
		plan.Neigh{Link: plan.WayOut, IP: plan.WayOut4(), MAC: far},
		plan.Neigh{Link: plan.WayOut, IP: plan.WayOut6(), MAC: far},
	)
	b.s.DefaultBy(plan.Exit{Link: plan.WayOut, Via4: plan.WayOut4(), Via6: plan.WayOut6()})
	for _, block := range b.self.BlocksOf(b.net.ID) {
		towardsBlock(host, hostLink, near, block)
	}
	// With the last address that goes from a device the kernel takes all its routes: the host's end
	// always has one, so that ports of mode host can come and go.
	host.Addrs = append(
		host.Addrs,
		plan.Addr{Link: hostLink, Prefix: single(plan.WayOut4())},
		plan.Addr{Link: hostLink, Prefix: single(plan.WayOut6())},
	)
	host.Sysctls = append(host.Sysctls, plan.WithIPv6(hostLink), plan.LocalNet(hostLink))
}

// towardsBlock leads to a block whose sandbox is behind link at mac.
func towardsBlock(s *plan.Sandbox, link string, mac plan.MAC, block mesh.Block) {
	plan.TowardsBlock(s, plan.Hop{Link: link, MAC: mac, Via4: block.Gateway4(), Via6: block.Gateway6()}, block.V4, block.V6)
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
