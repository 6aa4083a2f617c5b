package mesh

import (
	"fmt"
	"net/netip"
	"slices"
)

// Driver says how a network is built.
type Driver string

// The drivers.
const (
	// Overlay is one network over all nodes; the zero value of records that know no driver.
	Overlay Driver = "overlay"
	// Bridge is a network that each node has for itself: a bridge in the host's namespace, with
	// the same subnets on all nodes. An address on it means something on its node only.
	Bridge Driver = "bridge"
)

// Network is an overlay, or what each node builds a bridge from. The ingress network is an
// overlay like any other but for its ID and its second VNI.
type Network struct {
	ID       NetworkID
	Name     string
	Driver   Driver
	Subnet4  netip.Prefix
	Subnet6  netip.Prefix
	Bits4    int          // length of one node's block of Subnet4; a block of Subnet6 is always a /64
	More     []Subnet     // further subnets, in the order in which they were added
	VNI      VNI          // network sandboxes listen on it
	EntryVNI VNI          // ingress network only: ingress-sbox ends listen on it
	Pool     netip.Prefix // ingress network only: where user networks' IPv4 subnets come from

	Internal bool // no way out and no way in
	Apart    bool // its endpoints do not reach each other; "icc: false"
	MTU      int  // bytes of an inner packet; 0: the largest that fits

	// A bridge only. An overlay has blocks instead: Bits4, VNI and More are zero on a bridge.
	Gateway4, Gateway6 netip.Addr // the bridge's own addresses
	Routed             bool       // machines outside may reach its endpoints by their own addresses
}

// Bridged tells whether each node has the network for itself.
func (n *Network) Bridged() bool { return n.Driver == Bridge }

const (
	blockBits6    = 64 // length of a node's IPv6 block
	maxBlockBits4 = 30 // of its IPv4 block: four addresses, one of them the sandbox's
)

// Ingress tells whether n is the ingress network.
func (n *Network) Ingress() bool { return n.ID == IngressNetwork }

// Validate refuses a network that cannot be built.
func (n *Network) Validate() error {
	if err := validID(string(n.ID)); err != nil {
		return err
	}
	if err := ValidateName("network", n.Name); err != nil {
		return err
	}
	if n.Driver != "" && n.Driver != Overlay && n.Driver != Bridge {
		return Refuse(BadValue, "use overlay or bridge", "network %s has driver %.20q", n.Name, string(n.Driver))
	}
	if n.MTU != 0 && (n.MTU < leastMTU || n.MTU > maxMTU) {
		return Refuse(BadValue, fmt.Sprintf("use an MTU from %d, the least of IPv6, to %d", leastMTU, maxMTU), "network %s has MTU %d", n.Name, n.MTU)
	}
	if !n.Subnet4.Addr().Is4() || !n.Subnet6.Addr().Is6() {
		return Refuse(BadAddress, "give one subnet of each family, without host bits", "network %s has subnets %s and %s", n.Name, n.Subnet4, n.Subnet6)
	}
	for _, p := range []netip.Prefix{n.Subnet4, n.Subnet6} {
		if err := n.validateSubnet(p); err != nil {
			return err
		}
	}
	if special := reserved(append(n.Subnets(), n.Pool)...); special.IsValid() {
		return Refuse(BadAddress, "choose a private range", "a subnet or the pool of network %s overlaps %s, which has a meaning of its own", n.Name, special)
	}
	if n.Bridged() {
		return n.validateBridge()
	}
	return n.validateOverlay()
}

// leastMTU is IPv6's (RFC 8200).
const leastMTU = 1280

func (n *Network) validateOverlay() error {
	const do = "update the node that wrote it"
	if n.Bits4 <= n.Subnet4.Bits() || n.Bits4 > maxBlockBits4 {
		return Refuse(BadValue, goodSubnets, "network %s has IPv4 blocks of /%d", n.Name, n.Bits4)
	}
	if err := n.validateMore(); err != nil {
		return err
	}
	if !validVNI(n.VNI) || n.Ingress() != validVNI(n.EntryVNI) || !n.Ingress() && n.EntryVNI != 0 || n.VNI == n.EntryVNI {
		return Refuse(BadRecord, do, "network %s has VNIs %d and %d", n.Name, n.VNI, n.EntryVNI)
	}
	if n.Gateway4.IsValid() || n.Gateway6.IsValid() || n.Routed {
		return Refuse(BadValue, "leave gateways and direct routing to bridge networks", "overlay network %s is asked for what only a bridge has", n.Name)
	}
	if n.Ingress() && (n.Internal || n.Apart || n.MTU != 0) {
		return Refuse(BadRecord, do, "the ingress network is internal, without traffic between endpoints, or has MTU %d", n.MTU)
	}
	if n.Ingress() && (!n.Pool.IsValid() || !n.Pool.Addr().Is4() || n.Pool.Masked() != n.Pool || n.Pool.Bits() > subnetBits4 || n.Pool.Overlaps(n.Subnet4)) {
		return Refuse(BadAddress, "give --pool an IPv4 prefix of /20 or shorter that does not overlap the ingress subnet", "the pool for networks is %s", n.Pool)
	}
	return nil
}

func (n *Network) validateBridge() error {
	if n.Ingress() || n.Bits4 != 0 || n.VNI != 0 || n.EntryVNI != 0 || n.Pool.IsValid() {
		return Refuse(BadRecord, "update the node that wrote it", "bridge network %s has what only an overlay has", n.Name)
	}
	if len(n.More) > 0 {
		return Refuse(Unsupported, "make another network: an endpoint may be on several", "bridge network %s has one subnet of each family, and no further ones", n.Name)
	}
	if n.Internal && n.Routed {
		return Refuse(BadValue, "choose one of them", "network %s is internal, which has no way in, and lets direct routing in", n.Name)
	}
	for _, a := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if !n.Subnet4.Contains(a) && !n.Subnet6.Contains(a) || n.noHost(a) {
			return Refuse(BadAddress, "give an address of the subnet that is neither its first nor, of IPv4, its last", "network %s has gateway %.60q", n.Name, a)
		}
	}
	if !n.Gateway4.Is4() || !n.Gateway6.Is6() {
		return Refuse(BadRecord, "update the node that wrote it", "network %s has gateways %.60q and %.60q", n.Name, n.Gateway4, n.Gateway6)
	}
	return nil
}

// noHost tells whether an address is a subnet's own (of IPv6 the subnet-router anycast address,
// RFC 4291) or its broadcast address.
func (n *Network) noHost(a netip.Addr) bool {
	return a == n.Subnet4.Addr() || a == n.Subnet6.Addr() || a.Is4() && a == lastOf(n.Subnet4)
}

const (
	goodSubnets = "give an IPv4 subnet of /8 to /24 and an IPv6 subnet of /40 to /56, both without host bits"
	goodBridge  = "give an IPv4 subnet of /8 to /30 and an IPv6 subnet of /48 to /126, both without host bits"
)

// validateSubnet refuses a subnet that no block can be cut from, or that has no room for an
// endpoint on a bridge.
func (n *Network) validateSubnet(p netip.Prefix) error {
	least, most, family, do := 8, 24, "IPv4", goodSubnets
	if p.Addr().Is6() {
		least, most, family = 40, 56, "IPv6"
	}
	if n.Bridged() {
		most, do = 30, goodBridge
		if p.Addr().Is6() {
			least, most = 48, 126
		}
	}
	if !p.IsValid() || p.Addr().Is4In6() || p.Masked() != p || p.Bits() < least || p.Bits() > most {
		return Refuse(BadAddress, do, "network %s has %s subnet %s", n.Name, family, p)
	}
	return nil
}

// reserved returns the range of other meaning that one of the subnets overlaps.
func reserved(subnets ...netip.Prefix) netip.Prefix {
	for _, text := range []string{
		"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3",
		"169.254.0.0/16", "fd77::/112", // link-local; both families' uplinks and gateways
		"::/16", "fe80::/9", "ff00::/8", // loopback and mapped; link-local; multicast
	} {
		special := netip.MustParsePrefix(text)
		if slices.ContainsFunc(subnets, special.Overlaps) {
			return special
		}
	}
	return netip.Prefix{}
}

// The bytes that one VXLAN hop adds to an inner IP packet: inner Ethernet 14, VXLAN 8, UDP 8
// (RFC 7348) and the outer IP header without options.
const (
	overheadIPv4 = 14 + 8 + 8 + 20
	overheadIPv6 = 14 + 8 + 8 + 40
)

// OverlayMTU is the largest inner packet that fits between all nodes.
// The least node decides for all: an endpoint's MTU must hold towards every peer.
func OverlayMTU(nodes []*Node) int {
	least := maxMTU
	for _, n := range nodes {
		over := overheadIPv6
		if n.Addr.Is4() {
			over = overheadIPv4
		}
		least = min(least, n.MTU-over)
	}
	return least
}
