package mesh

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// Subnet is a further subnet of a network: one that it was not made with. It has a claim of its
// own, since it is younger than its network: another one may have the range for longer.
type Subnet struct {
	Prefix netip.Prefix
	Claim  uint64 // when it was added
}

// moreLimit is how many further subnets one network has at most, of both families: each is a
// route and a rule or two on every node.
const moreLimit = 16

// Subnets4 are the network's IPv4 subnets, in the order in which they came. Snapshot.Network has
// only those that the network holds.
func (n *Network) Subnets4() []netip.Prefix { return n.family(n.Subnet4, netip.Addr.Is4) }

// Subnets6 are its IPv6 subnets.
func (n *Network) Subnets6() []netip.Prefix { return n.family(n.Subnet6, netip.Addr.Is6) }

// Subnets are those of both families: the two that the network was made with come first.
func (n *Network) Subnets() []netip.Prefix {
	all := []netip.Prefix{n.Subnet4, n.Subnet6}
	for _, s := range n.More {
		all = append(all, s.Prefix)
	}
	return all
}

func (n *Network) family(first netip.Prefix, of func(netip.Addr) bool) []netip.Prefix {
	list := []netip.Prefix{first}
	for _, s := range n.More {
		if of(s.Prefix.Addr()) {
			list = append(list, s.Prefix)
		}
	}
	return list
}

// Contains tells whether an address is in one of the network's subnets.
func (n *Network) Contains(a netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets(), func(p netip.Prefix) bool { return p.Contains(a) })
}

// Grow is the network with further subnets, claimed at the time now. What has an address keeps it.
func (snap *Snapshot) Grow(n *Network, subnets []netip.Prefix, now uint64) (*Network, error) {
	if n.Bridged() {
		return nil, Refuse(Unsupported, "make another network: an endpoint may be on several", "bridge network %s has one subnet of each family, and no further ones", n.Name)
	}
	next := *n
	next.More = slices.Clone(n.More)
	for _, p := range subnets {
		if err := snap.free(p); err != nil {
			return nil, err
		}
		next.More = append(next.More, Subnet{p, now})
	}
	return &next, next.Validate()
}

// Regrown is the network with those of the lost subnets again that no other of its own overlaps, as
// far as there is room, each with the claim that it had; nil where there are none.
func (n *Network) Regrown(lost []Subnet) *Network {
	next := *n
	next.More = slices.Clone(n.More)
	for _, s := range lost {
		if len(next.More) < moreLimit && !slices.ContainsFunc(next.Subnets(), s.Prefix.Overlaps) {
			next.More = append(next.More, s)
		}
	}
	if len(next.More) == len(n.More) || next.Validate() != nil {
		return nil
	}
	return &next
}

// validateMore refuses further subnets that no node adds.
func (n *Network) validateMore() error {
	if len(n.More) > moreLimit {
		return Refuse(PoolExhausted, "make another network", "network %s has %d further subnets, the limit is %d", n.Name, len(n.More), moreLimit)
	}
	all := n.Subnets()
	for i, s := range n.More {
		p := s.Prefix
		if err := n.validateSubnet(p); err != nil {
			return err
		}
		if p.Addr().Is4() && p.Bits() >= n.Bits4 {
			return Refuse(BadAddress, "give a larger subnet", "network %s gives each node a /%d, and %s has no room for two", n.Name, n.Bits4, p)
		}
		if slices.ContainsFunc(all[:i+2], p.Overlaps) {
			return Refuse(SubnetTaken, "choose a subnet that no network has", "subnet %s overlaps another one of network %s", p, n.Name)
		}
	}
	return nil
}

// addedBy tells whether the further subnets were added at some time until the given one.
func (n *Network) addedBy(time uint64) bool {
	return !slices.ContainsFunc(n.More, func(s Subnet) bool { return s.Claim == 0 || s.Claim > time })
}

// The blocks that a network's subnets are cut into are numbered through all of them, in order:
// a further subnet's come after those of before.

// parts is how many blocks of so many bits the subnets have.
func parts(subnets []netip.Prefix, bits int) int {
	count := 0
	for _, p := range subnets {
		count += 1 << (bits - p.Bits())
	}
	return count
}

// part is the i-th of them.
func part(subnets []netip.Prefix, bits, i int) netip.Prefix {
	for _, p := range subnets {
		count := 1 << (bits - p.Bits())
		if i < count {
			return nth(p, bits, i)
		}
		i -= count
	}
	return netip.Prefix{}
}

// partOf is the one that an address is in; the zero Prefix where there is none.
func partOf(subnets []netip.Prefix, bits int, a netip.Addr) netip.Prefix {
	for _, p := range subnets {
		if p.Contains(a) {
			return netip.PrefixFrom(a, bits).Masked()
		}
	}
	return netip.Prefix{}
}

// virtualBits is the share of the first subnet that is kept for virtual addresses: an eighth.
const virtualBits = 3

// virtual4 is the part of the subnet that the network was made with that is kept for virtual
// addresses, which belong to no node: its last eighth, of the ingress network its last block.
func (n *Network) virtual4() netip.Prefix {
	count := n.virtualBlocks()
	length := n.Bits4 - bits.TrailingZeros(uint(count))
	return nth4(n.Subnet4, length, 1<<(length-n.Subnet4.Bits())-1)
}

// virtual6 is the block of the first IPv6 subnet with the number of the last IPv4 block, which no
// node claimed before there were virtual addresses.
func (n *Network) virtual6() netip.Prefix {
	last := n.virtualNumber() + n.virtualBlocks() - 1
	return nth6(n.Subnet6, last%parts([]netip.Prefix{n.Subnet6}, blockBits6))
}

// virtualBlocks is how many blocks virtual4 has, a power of two.
func (n *Network) virtualBlocks() int {
	if n.Ingress() {
		return 1
	}
	return 1 << max(0, n.Bits4-n.Subnet4.Bits()-virtualBits)
}

// virtualNumber is that of the first block in virtual4.
func (n *Network) virtualNumber() int { return 1<<(n.Bits4-n.Subnet4.Bits()) - n.virtualBlocks() }

// blockCount is how many blocks nodes can claim: all but those of virtual addresses.
func (n *Network) blockCount() int {
	kept := n.virtualBlocks()
	return min(parts(n.Subnets4(), n.Bits4)-kept, parts(n.Subnets6(), blockBits6)-1)
}

// block is the i-th of them: an IPv4 and an IPv6 part of the same number.
func (n *Network) block(i int) Block {
	if i >= n.virtualNumber() {
		i += n.virtualBlocks()
	}
	four, six := n.Subnets4(), n.Subnets6()
	return Block{Network: n.ID, V4: part(four, n.Bits4, i), V6: part(six, blockBits6, i%parts(six, blockBits6))}
}

// numberOf is where block finds the part that b has, the IPv4 part first.
func (n *Network) numberOf(b Block) int {
	i := 0
	if b.V4.IsValid() {
		i = partNumber(n.Subnets4(), n.Bits4, b.V4)
	} else {
		i = partNumber(n.Subnets6(), blockBits6, b.V6)
	}
	if i >= n.virtualNumber() {
		i = max(0, i-n.virtualBlocks())
	}
	return i
}

// partNumber is the inverse of part.
func partNumber(subnets []netip.Prefix, bits int, p netip.Prefix) int {
	first := func(p netip.Prefix) uint64 { // the bits that tell parts apart
		a := p.Addr().As16()
		if p.Addr().Is4() {
			return uint64(binary.BigEndian.Uint32(a[12:]) >> (32 - bits))
		}
		return binary.BigEndian.Uint64(a[:8])
	}
	i := 0
	for _, s := range subnets {
		if s.Contains(p.Addr()) {
			return i + int(first(p)-first(s))
		}
		i += 1 << (bits - s.Bits())
	}
	return i
}

// has tells whether b is one of the blocks of n that nodes may hold. Nodes claimed blocks in
// virtual4 before it was more than its last one, and keep those.
func (n *Network) has(b Block) bool {
	if n.Bridged() {
		return false
	}
	last := nth4(n.Subnet4, n.Bits4, n.virtualNumber()+n.virtualBlocks()-1)
	return b.V4.Bits() == n.Bits4 && partOf(n.Subnets4(), n.Bits4, b.V4.Addr()) == b.V4 && b.V4 != last &&
		b.V6.Bits() == blockBits6 && partOf(n.Subnets6(), blockBits6, b.V6.Addr()) == b.V6 && b.V6 != n.virtual6()
}
