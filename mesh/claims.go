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

// settleNodes leaves each node the slot and the blocks that no older claim has and that
// are blocks of a network: a slot or block that two nodes had would lead one's
// packets to the other, and a block of any size all packets to whoever claims it.
func (snap *Snapshot) settleNodes() {
	type claim struct {
		node  *Node
		block int // index, or -1: the slot
		time  uint64
	}
	var claims []claim
	for _, n := range snap.Nodes {
		if n.Slot != 0 {
			claims = append(claims, claim{n, -1, n.SlotClaim})
		}
		for i, b := range n.Blocks {
			claims = append(claims, claim{n, i, b.Claim})
		}
	}
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.node.ID, b.node.ID))
	})
	type held struct {
		network NetworkID
		part    netip.Prefix
	}
	slots, blocks := map[Slot]bool{}, map[held]bool{}
	lost := map[NodeID][]int{}
	for _, c := range claims {
		if c.block < 0 {
			if slots[c.node.Slot] {
				lost[c.node.ID] = append(lost[c.node.ID], c.block)
			}
			slots[c.node.Slot] = true
			continue
		}
		b := c.node.Blocks[c.block]
		four, six := held{b.Network, b.V4}, held{b.Network, b.V6}
		if n := snap.networks[b.Network]; n == nil || !n.has(b) || blocks[four] || blocks[six] {
			lost[c.node.ID] = append(lost[c.node.ID], c.block)
			continue
		}
		blocks[four], blocks[six] = true, true
	}
	for i, n := range snap.Nodes {
		if gone, any := lost[n.ID]; any {
			snap.Nodes[i] = n.without(gone)
			snap.nodes[n.ID], snap.written[n.ID] = snap.Nodes[i], n
		}
	}
}

// without is the node less some of its blocks; -1 is its slot.
func (n *Node) without(lost []int) *Node {
	c := *n
	c.Blocks = nil
	for i, b := range n.Blocks {
		if !slices.Contains(lost, i) {
			c.Blocks = append(c.Blocks, b)
		}
	}
	if slices.Contains(lost, -1) {
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
