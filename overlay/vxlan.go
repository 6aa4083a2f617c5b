package overlay

import (
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// tunnel is the network's VXLAN device and the sandbox's own address: the first
// one of the node's first block, next hop of the peers' routes and the source
// of ICMP errors made here.
func (b *builder) tunnel() {
	b.s.Links = append(b.s.Links, plan.Link{
		Name: plan.Tunnel, Kind: plan.LinkVXLAN, MAC: plan.NetworkMAC(uint16(b.self.Slot)), MTU: b.mtu,
		VXLAN: plan.VXLAN{VNI: uint32(b.net.VNI), Local: b.self.Addr, Port: b.self.VXLANPort},
	})
	own := b.self.BlocksOf(b.net.ID)[0]
	b.s.Addrs = append(
		b.s.Addrs,
		plan.Addr{Link: plan.Tunnel, Prefix: single(own.Gateway4())},
		plan.Addr{Link: plan.Tunnel, Prefix: single(own.Gateway6())},
	)
}

// peers adds, for each other node with endpoints on the network, one FDB entry,
// one neighbour and one route per block.
func (b *builder) peers(snap *mesh.Snapshot) {
	for _, peer := range snap.Nodes {
		blocks := peer.BlocksOf(b.net.ID)
		if peer.ID == b.self.ID || peer.Slot == 0 || len(blocks) == 0 {
			continue
		}
		mac := plan.NetworkMAC(uint16(peer.Slot))
		b.s.FDB = append(b.s.FDB, plan.FDBEntry{
			Link: plan.Tunnel, MAC: mac, Dst: peer.Addr, VNI: uint32(b.net.VNI), Port: peer.VXLANPort,
		})
		for _, block := range blocks {
			towardsBlock(b.s, plan.Tunnel, mac, block)
		}
	}
}
