package mesh

import (
	"cmp"
	"net/netip"
	"strconv"
)

// NetworkWish is what somebody asks of a new network. What is left out is chosen.
type NetworkWish struct {
	ID       NetworkID
	Name     string
	Driver   Driver         // "": Overlay
	Subnets  []netip.Prefix // at most one of each family
	Gateways []netip.Addr   // of a bridge: at most one of each family, in its subnet
	Internal bool
	Apart    bool
	Routed   bool // a bridge only
	MTU      int  // bytes; 0: the largest that fits
}

// NewNetwork returns the network that is wished for, with what it leaves out chosen by hash of
// its name, or its ID, over what is not taken: the VNI of an overlay, the gateways of a bridge,
// the subnets of both.
func NewNetwork(snap *Snapshot, wish NetworkWish) (*Network, error) {
	if err := ValidateName("network", wish.Name); err != nil {
		return nil, err
	}
	// One that lost its subnets has its name, and may be made anew.
	if other := snap.NetworkNamed(wish.Name); other != nil && other.ID != wish.ID || snap.Network(wish.ID) != nil {
		return nil, Refuse(NameTaken, "choose another name, or remove that network", "a network named %q exists", wish.Name)
	}
	n := &Network{
		ID: wish.ID, Name: wish.Name, Driver: cmp.Or(wish.Driver, Overlay),
		Internal: wish.Internal, Apart: wish.Apart, Routed: wish.Routed, MTU: wish.MTU,
	}
	if err := n.takeSubnets(snap, wish.Subnets); err != nil {
		return nil, err
	}
	if err := n.takeGateways(wish.Gateways); err != nil {
		return nil, err
	}
	if !n.Bridged() {
		n.Bits4 = max(blockBits4, min(n.Subnet4.Bits()+2, maxBlockBits4))
		var err error
		if n.VNI, err = snap.freeVNI(wish.Name); err != nil {
			return nil, err
		}
	}
	return n, n.Validate()
}

// NewDefaultBridge is the network DefaultBridge, for who finds that it is not there: it was not made
// yet, or an older network has its subnets.
func NewDefaultBridge(snap *Snapshot) (*Network, error) {
	return NewNetwork(snap, NetworkWish{ID: DefaultBridge, Name: DefaultBridgeName, Driver: Bridge})
}

const oneSubnet = "give at most one IPv4 and one IPv6 subnet; an overlay gets more by sluice network update NETWORK --subnet CIDR"

// takeSubnets gives a new network the subnets that are wished for, and chooses the others.
func (n *Network) takeSubnets(snap *Snapshot, wished []netip.Prefix) error {
	for _, p := range wished {
		mine := &n.Subnet4
		if p.Addr().Is6() {
			mine = &n.Subnet6
		}
		if mine.IsValid() || !p.IsValid() {
			return Refuse(BadValue, oneSubnet, "network %s is to have subnets %v", n.Name, wished)
		}
		if err := snap.free(p); err != nil {
			return err
		}
		*mine = p
	}
	if !n.Subnet4.IsValid() {
		ingress := snap.Network(IngressNetwork)
		if ingress == nil {
			return Refuse(NotFound, "run sluice init or sluice join first", "this node is in no cluster")
		}
		var err error
		if n.Subnet4, err = snap.freeSubnet(n.Name, ingress.Pool); err != nil {
			return err
		}
	}
	for i := 0; !n.Subnet6.IsValid(); i++ {
		p := ula(hash("ula", string(n.ID), strconv.Itoa(i)))
		if snap.free(p) != nil {
			continue
		}
		if n.Subnet6 = p; n.Bridged() {
			n.Subnet6 = nth6(p, 0)
		}
	}
	return nil
}

// takeGateways gives a new bridge its addresses: those wished for, or the first of each subnet.
func (n *Network) takeGateways(wished []netip.Addr) error {
	for _, a := range wished {
		mine := &n.Gateway4
		if a.Is6() {
			mine = &n.Gateway6
		}
		if mine.IsValid() || !a.IsValid() || !n.Bridged() {
			return Refuse(BadValue, "give a bridge network at most one gateway of each family, and an overlay none", "network %s is to have gateways %v", n.Name, wished)
		}
		*mine = a
	}
	if !n.Bridged() {
		return nil
	}
	if !n.Gateway4.IsValid() {
		n.Gateway4 = n.Subnet4.Addr().Next()
	}
	if !n.Gateway6.IsValid() {
		n.Gateway6 = n.Subnet6.Addr().Next()
	}
	return nil
}
