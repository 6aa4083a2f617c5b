package mesh

import (
	"net/netip"
	"slices"
)

// virtualClaims are the oldest services with a virtual address in the blocks that nodes claim of what
// a network keeps for those. Most clusters have no such claim, so it is read at the first.
type virtualClaims struct {
	byAge  []Record
	oldest map[virtualBlock]serviceClaim // nil: not read yet
	held   map[NetworkID]int             // blocks there by network
}

// oldBlocks is how many blocks nodes hold at most of what a network keeps for virtual addresses, where
// no node claims any more: each divides the rest, and is a route and some rules on every node. A
// network of less than a /17 had no more.
const oldBlocks = 64

// among tells whether a node's claim is of what a network keeps for virtual addresses.
func (v *virtualClaims) among(snap *Snapshot, c nodeClaim) bool {
	b := c.node.Blocks[c.block]
	n := snap.networks[b.Network]
	return n != nil && !n.Bridged() && !n.Ingress() && n.virtual4().Contains(b.V4.Addr())
}

func (v *virtualClaims) full(snap *Snapshot, c nodeClaim) bool {
	return v.held[c.node.Blocks[c.block].Network] >= oldBlocks && v.among(snap, c)
}

func (v *virtualClaims) hold(snap *Snapshot, c nodeClaim) {
	if !v.among(snap, c) {
		return
	}
	if v.held == nil {
		v.held = map[NetworkID]int{}
	}
	v.held[c.node.Blocks[c.block].Network]++
}

// virtualBlock is the IPv4 part of a block of a network.
type virtualBlock struct {
	network NetworkID
	prefix  netip.Prefix
}

type serviceClaim struct {
	service ServiceID
	time    uint64
}

// before is the service that has an address in the block of a node's claim for longer; empty where
// there is none. What is written counts, not what the service only would have: that makes way.
func (v *virtualClaims) before(snap *Snapshot, c nodeClaim) ServiceID {
	b := c.node.Blocks[c.block]
	if !v.among(snap, c) || !snap.networks[b.Network].has(b) {
		return ""
	}
	if v.oldest == nil {
		v.read(snap)
	}
	if s, ok := v.oldest[virtualBlock{b.Network, b.V4}]; ok && s.time <= c.time {
		return s.service
	}
	return ""
}

func (v *virtualClaims) read(snap *Snapshot) {
	v.oldest = map[virtualBlock]serviceClaim{}
	parts := snap.virtualParts()
	for _, r := range v.byAge {
		if r.Service == nil || r.Service.Mode == RoundRobinDNS {
			continue
		}
		for _, a := range r.Service.Virtual {
			part := parts[a.Network]
			if _, on := slices.BinarySearch(r.Service.Networks, a.Network); !on || part == nil || !part.has(a) {
				continue
			}
			k := virtualBlock{a.Network, netip.PrefixFrom(a.V4, part.network.Bits4).Masked()}
			if _, met := v.oldest[k]; !met {
				v.oldest[k] = serviceClaim{r.Service.ID, r.Claim}
			}
		}
	}
}
