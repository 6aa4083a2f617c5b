package mesh

// Reaches tells whether what is sent to an endpoint's address on a network gets to that endpoint:
// the network is built, and the address is of a block that the endpoint's node holds, on a bridge
// of the bridge's subnets. Until its node has settled, the record of an endpoint may name any
// other: after a split another endpoint's. Balancers and names use what Reaches says alone.
func (snap *Snapshot) Reaches(e *Endpoint, a Attachment) bool {
	node, n := snap.nodes[e.Node], snap.networks[a.Network]
	switch {
	case node == nil || n == nil:
		return false
	case n.Bridged():
		return n.hosts(a.V4) && n.hosts(a.V6)
	case node.Slot == 0:
		return false
	}
	for i := range node.Blocks {
		if b := &node.Blocks[i]; b.Network == a.Network && b.V4.Contains(a.V4) && b.V6.Contains(a.V6) {
			return !b.own(a.V4) && !b.own(a.V6)
		}
	}
	return false
}
