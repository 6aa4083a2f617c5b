package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
)

// settleNetworks keeps networks apart that were made on two sides of a split, or by
// somebody who did not ask: two on one VNI would be one network. The ingress
// network comes first, then the older claim.
func (snap *Snapshot) settleNetworks(byAge []Record) {
	var held []*Network
	if ingress := snap.networks[IngressNetwork]; ingress != nil {
		held = append(held, ingress)
	}
	for _, r := range byAge {
		if r.Kind != KindNetwork || r.Network.Ingress() {
			continue
		}
		if c, lost := clash(r.Network, held); lost {
			snap.Conflicts = append(snap.Conflicts, c)
			delete(snap.networks, r.Network.ID)
			continue
		}
		held = append(held, r.Network)
	}
}

// clash says what n, a user network, claims that one of held has.
func clash(n *Network, held []*Network) (Conflict, bool) {
	for _, other := range held {
		c := Conflict{Kind: KindNetwork, ID: string(n.ID), Winner: string(other.ID), Reason: SubnetTaken}
		switch {
		case n.VNI == other.VNI || n.VNI == other.EntryVNI:
			c.Claim, c.Reason = "VNI "+strconv.Itoa(int(n.VNI)), VNITaken
		case n.Subnet4.Overlaps(other.Subnet4):
			c.Claim = "subnet " + n.Subnet4.String()
		case n.Subnet6.Overlaps(other.Subnet6):
			c.Claim = "subnet " + n.Subnet6.String()
		default:
			continue
		}
		return c, true
	}
	return Conflict{}, false
}

// nodeClaim is a slot or a block that a node claims.
type nodeClaim struct {
	node  *Node
	block int // index, or slotClaim
	time  uint64
}

const slotClaim = -1

// nodeClaims are those of all nodes, the oldest first.
func nodeClaims(nodes []*Node) []nodeClaim {
	var claims []nodeClaim
	for _, n := range nodes {
		if n.Slot != 0 {
			claims = append(claims, nodeClaim{n, slotClaim, n.SlotClaim})
		}
		for i, b := range n.Blocks {
			claims = append(claims, nodeClaim{n, i, b.Claim})
		}
	}
	slices.SortStableFunc(claims, func(a, b nodeClaim) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.node.ID, b.node.ID))
	})
	return claims
}

// settleNodes leaves each node the slot and the blocks that no older claim has and that
// are blocks of a network: a slot or block that two nodes had would lead one's
// packets to the other, and a block of any size all packets to whoever claims it.
func (snap *Snapshot) settleNodes() {
	type part struct {
		network NetworkID
		prefix  netip.Prefix
	}
	slots, blocks := map[Slot]NodeID{}, map[part]NodeID{}
	lost := map[NodeID][]int{}
	lose := func(c nodeClaim, what string, winner NodeID, reason Reason) {
		lost[c.node.ID] = append(lost[c.node.ID], c.block)
		if winner != "" && winner != c.node.ID {
			snap.Conflicts = append(snap.Conflicts, Conflict{KindNode, string(c.node.ID), what, string(winner), reason})
		}
	}
	for _, c := range nodeClaims(snap.Nodes) {
		if c.block == slotClaim {
			if winner, taken := slots[c.node.Slot]; taken {
				lose(c, "slot "+strconv.Itoa(int(c.node.Slot)), winner, SlotTaken)
				continue
			}
			slots[c.node.Slot] = c.node.ID
			continue
		}
		b := c.node.Blocks[c.block]
		four, six := part{b.Network, b.V4}, part{b.Network, b.V6}
		winner := cmp.Or(blocks[four], blocks[six])
		if n := snap.networks[b.Network]; n == nil || !n.has(b) || winner != "" {
			lose(c, "block "+b.V4.String(), winner, BlockTaken)
			continue
		}
		blocks[four], blocks[six] = c.node.ID, c.node.ID
	}
	for i, n := range snap.Nodes {
		if gone, any := lost[n.ID]; any {
			snap.Nodes[i] = n.without(gone)
			snap.nodes[n.ID], snap.written[n.ID] = snap.Nodes[i], n
		}
	}
}

// without is the node less some of its blocks, or its slot.
func (n *Node) without(lost []int) *Node {
	c := *n
	c.Blocks = nil
	for i, b := range n.Blocks {
		if !slices.Contains(lost, i) {
			c.Blocks = append(c.Blocks, b)
		}
	}
	if slices.Contains(lost, slotClaim) {
		c.Slot = 0
	}
	return &c
}

// has tells whether b is one of the blocks of n that nodes may claim.
func (n *Network) has(b Block) bool {
	last := nth4(n.Subnet4, n.Bits4, 1<<(n.Bits4-n.Subnet4.Bits())-1) // kept for virtual addresses
	return b.V4.Bits() == n.Bits4 && n.Subnet4.Contains(b.V4.Addr()) && b.V4 != last &&
		b.V6.Bits() == blockBits6 && n.Subnet6.Contains(b.V6.Addr())
}
