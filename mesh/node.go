package mesh

import (
	"net/netip"
	"slices"
)

// Node is one machine that runs the agent. Its record has one writer: the node.
type Node struct {
	ID         NodeID
	Name       string
	Addr       netip.Addr // underlay address: gossip and outer VXLAN packets
	GossipPort uint16     // TCP and UDP; 0 in a record of before this field: the reader's own
	VXLANPort  uint16
	MTU        int  // bytes, of the underlay device that has Addr
	Slot       Slot // 0 until claimed
	SlotClaim  uint64
	Blocks     []Block    // address blocks of networks with endpoints here
	Held       []HeldPort // published ports that it does not answer on; see Reported
	Cert       []byte     // by which the cluster admitted it, DER; nil where nobody asks for one
	Routes     []Route    // where it leads elsewhere; see ReportedRoutes
	Synced     uint64     // until when it has everything that the others wrote; 0: it has not said; see Horizon
}

// Block is a part of a network's subnets that one node gives addresses from.
// Its first address is the node's network sandbox itself.
type Block struct {
	Network NetworkID
	V4, V6  netip.Prefix
	Claim   uint64 // when it was claimed; the older of two equal claims wins
}

// Gateway4 is the IPv4 address of the sandbox that holds the block.
func (b Block) Gateway4() netip.Addr { return b.V4.Addr() }

// Gateway6 is the IPv6 address of the sandbox that holds the block: ::1, since
// the first address of an IPv6 prefix is the subnet-router anycast address.
func (b Block) Gateway6() netip.Addr { return b.V6.Addr().Next() }

// BlocksOf returns the node's blocks of one network, in the order of claims.
func (n *Node) BlocksOf(id NetworkID) []Block {
	var found []Block
	for i := range n.Blocks { // not copied: a node on a thousand networks is asked for each of them
		if n.Blocks[i].Network == id {
			found = append(found, n.Blocks[i])
		}
	}
	return found
}

func (n *Node) clone() *Node {
	c := *n
	c.Blocks, c.Held = slices.Clone(n.Blocks), slices.Clone(n.Held)
	return &c
}

// WithHeld is the node with other held ports.
func (n *Node) WithHeld(held []HeldPort) *Node {
	c := n.clone()
	c.Held = held
	return c
}

// Validate refuses a node that no honest agent would write.
func (n *Node) Validate() error {
	if err := validID(string(n.ID)); err != nil {
		return err
	}
	if err := ValidateName("node", n.Name); err != nil {
		return err
	}
	if !validUnicast(n.Addr) {
		return Refuse(BadAddress, "start the agent with --advertise ADDR, an address that the other nodes reach", "node %s has underlay address %.60q", n.Name, n.Addr)
	}
	if n.VXLANPort == 0 || n.MTU < minUnderlayMTU || n.MTU > maxMTU {
		return Refuse(BadValue, "check --vxlan-port and the MTU of the underlay device", "node %s has VXLAN port %d and MTU %d", n.Name, n.VXLANPort, n.MTU)
	}
	if n.GossipPort == n.VXLANPort {
		return Refuse(BadValue, "check --gossip-port and --vxlan-port", "node %s has gossip and VXLAN both on port %d", n.Name, n.VXLANPort)
	}
	if len(n.Cert) > certLimit {
		return Refuse(BadRecord, "update the node that wrote it", "node %s has a certificate of %d bytes, the limit is %d", n.Name, len(n.Cert), certLimit)
	}
	if len(n.Blocks) > blockLimit {
		return Refuse(BadRecord, "update the node that wrote it", "node %s claims %d blocks, the limit is %d", n.Name, len(n.Blocks), blockLimit)
	}
	for _, b := range n.Blocks {
		if validID(string(b.Network)) != nil || !b.valid() {
			return Refuse(BadRecord, "update the node that wrote it", "node %s claims block %s %s", n.Name, b.V4, b.V6)
		}
	}
	if err := n.validateRoutes(); err != nil {
		return err
	}
	return n.validateHeld()
}

// claimedBy tells whether the node's claims were made at some time until the given one, and
// it is in sync until then at most. A claim of 0 would be older than all, and win whatever it
// names.
func (n *Node) claimedBy(time uint64) bool {
	made := func(claim uint64) bool { return claim > 0 && claim <= time }
	return n.Synced <= time && (n.Slot == 0 || made(n.SlotClaim)) && !slices.ContainsFunc(n.Blocks, func(b Block) bool { return !made(b.Claim) })
}

// valid tells whether b is a block of some network; Snapshot looks at which.
func (b Block) valid() bool {
	return b.V4.IsValid() && b.V4.Addr().Is4() && b.V4.Masked() == b.V4 && b.V4.Bits() <= maxBlockBits4 &&
		b.V6.IsValid() && b.V6.Addr().Is6() && !b.V6.Addr().Is4In6() && b.V6.Masked() == b.V6 && b.V6.Bits() == blockBits6
}

const (
	blockLimit = 4096
	certLimit  = 4096 // bytes
)

const (
	minUnderlayMTU = 1280 + overheadIPv6 // the least that leaves IPv6's minimum inside
	maxMTU         = 65535
)

// Outside refuses prefixes that hold the node's address: what they are given to would take the
// packets that the nodes exchange. An invalid prefix holds none.
func (n *Node) Outside(prefixes ...netip.Prefix) error {
	for _, p := range prefixes {
		if p.Contains(n.Addr) {
			return Refuse(SubnetTaken, "choose a range that no node's underlay is in", "%s holds %s, the address of node %q", p, n.Addr, n.Name)
		}
	}
	return nil
}
