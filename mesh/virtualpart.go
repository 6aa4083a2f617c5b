package mesh

import "net/netip"

// VirtualParts are what an overlay keeps for virtual addresses, one a family.
func (n *Network) VirtualParts() []netip.Prefix { return []netip.Prefix{n.virtual4(), n.virtual6()} }
