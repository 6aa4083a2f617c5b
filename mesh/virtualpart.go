package mesh

import "net/netip"

// VirtualParts are what the network keeps for virtual addresses, one a family.
func (n *Network) VirtualParts() []netip.Prefix {
	four := n.virtual()
	six := part(n.Subnets6(), blockBits6, n.virtualNumber()%parts(n.Subnets6(), blockBits6))
	return []netip.Prefix{four, six}
}
