package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
)

// subnetClaim is what a network claims at one time: all that it was made with, or a further subnet.
type subnetClaim struct {
	network *Network
	further int // index in More, or theFirst
	time    uint64
}

const theFirst = -1

// subnetClaims are those of all networks: the ingress network's first, then the oldest.
func subnetClaims(live []Record) []subnetClaim {
	var claims []subnetClaim
	for _, r := range live {
		if r.Kind != KindNetwork {
			continue
		}
		since := r.Claim
		if r.Network.Ingress() {
			since = 0
		}
		claims = append(claims, subnetClaim{r.Network, theFirst, since})
		for i, s := range r.Network.More {
			claims = append(claims, subnetClaim{r.Network, i, max(s.Claim, r.Claim)})
		}
	}
	slices.SortStableFunc(claims, func(a, b subnetClaim) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.network.ID, b.network.ID), cmp.Compare(a.further, b.further))
	})
	return claims
}

// settleNetworks keeps networks apart that were made on two sides of a split, or by
// somebody who did not ask: two on one VNI would be one network. The older claim holds what
// both claim. A network that lost what it was made with is not built; one that lost a further
// subnet is built without it.
func (snap *Snapshot) settleNetworks(live []Record) {
	held := heldNetworks{vnis: map[VNI]NetworkID{}}
	kept := map[NetworkID][]Subnet{} // of More, by network that is built
	for _, c := range subnetClaims(live) {
		n := c.network
		if c.further == theFirst {
			if lost, clashed := held.take(n); clashed {
				snap.Conflicts = append(snap.Conflicts, lost)
				delete(snap.networks, n.ID)
				continue
			}
			kept[n.ID] = nil
			continue
		}
		if _, built := kept[n.ID]; !built {
			continue
		}
		s := n.More[c.further]
		if winner, taken := held.ranges.overlapped(s.Prefix); taken {
			snap.Conflicts = append(snap.Conflicts, Conflict{Kind: KindNetwork, ID: string(n.ID), Claim: "subnet " + s.Prefix.String(), Winner: string(winner), Reason: SubnetTaken})
			continue
		}
		held.ranges.add(s.Prefix, n.ID)
		kept[n.ID] = append(kept[n.ID], s)
	}
	for id, more := range kept {
		// The order of More is that of the record: blocks are numbered by it.
		written := snap.networks[id]
		if len(more) == len(written.More) {
			continue
		}
		less := *written
		less.More = slices.DeleteFunc(slices.Clone(written.More), func(s Subnet) bool { return !slices.Contains(more, s) })
		snap.networks[id] = &less
	}
}

// heldNetworks is what networks hold against those that come later.
type heldNetworks struct {
	vnis   map[VNI]NetworkID
	ranges ranges
}

// take gives a network what it was made with, unless an older one has a part of that.
func (h *heldNetworks) take(n *Network) (lost Conflict, clashed bool) {
	c := Conflict{Kind: KindNetwork, ID: string(n.ID)}
	if winner, taken := h.vnis[n.VNI]; taken && !n.Bridged() {
		c.Claim, c.Winner, c.Reason = "VNI "+strconv.Itoa(int(n.VNI)), string(winner), VNITaken
		return c, true
	}
	first := []netip.Prefix{n.Subnet4, n.Subnet6}
	for _, p := range first {
		if winner, taken := h.ranges.overlapped(p); taken {
			c.Claim, c.Winner, c.Reason = "subnet "+p.String(), string(winner), SubnetTaken
			return c, true
		}
	}
	if !n.Bridged() {
		h.vnis[n.VNI] = n.ID
	}
	if n.Ingress() {
		h.vnis[n.EntryVNI] = n.ID
	}
	for _, p := range first {
		h.ranges.add(p, n.ID)
	}
	return c, false
}

// overlapped is the network that has a part of p; nil where none has.
func overlapped(p netip.Prefix, held []*Network) *Network {
	i := slices.IndexFunc(held, func(n *Network) bool { return slices.ContainsFunc(n.Subnets(), p.Overlaps) })
	if i < 0 {
		return nil
	}
	return held[i]
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
// are blocks of a network, without an address that a service had before: a slot or block that two nodes had would lead one's
// packets to the other, and a block of any size all packets to whoever claims it.
func (snap *Snapshot) settleNodes(byAge []Record) {
	type part struct {
		network NetworkID
		prefix  netip.Prefix
	}
	slots, blocks := map[Slot]NodeID{}, map[part]NodeID{}
	lost := map[NodeID][]int{}
	virtual := virtualClaims{byAge: byAge}
	lose := func(c nodeClaim, what string, winner NodeID, reason Reason) {
		lost[c.node.ID] = append(lost[c.node.ID], c.block)
		if winner != "" && winner != c.node.ID {
			snap.Conflicts = append(snap.Conflicts, Conflict{Kind: KindNode, ID: string(c.node.ID), Claim: what, Winner: string(winner), Reason: reason})
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
		if s := virtual.before(snap, c); s != "" {
			lost[c.node.ID] = append(lost[c.node.ID], c.block)
			snap.Conflicts = append(snap.Conflicts, Conflict{Kind: KindNode, ID: string(c.node.ID), Claim: "block " + b.V4.String(), Winner: string(s), Reason: BlockTaken, By: KindService})
			continue
		}
		if virtual.full(snap, c) {
			lose(c, "", "", BlockTaken)
			continue
		}
		winner := cmp.Or(blocks[four], blocks[six])
		if n := snap.networks[b.Network]; n == nil || !n.has(b) || winner != "" {
			lose(c, "block "+b.V4.String(), winner, BlockTaken)
			continue
		}
		blocks[four], blocks[six] = c.node.ID, c.node.ID
		virtual.hold(snap, c)
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
