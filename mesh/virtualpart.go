package mesh

import "net/netip"

// VirtualParts are what an overlay keeps for the virtual addresses of services, one of each
// family: no endpoint has an address from there.
func (n *Network) VirtualParts() []netip.Prefix {
	return []netip.Prefix{n.virtual4(), n.virtual6()}
}
