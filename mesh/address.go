package mesh

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// owns tells whether a pair is in a block of the node, and is no sandbox's.
func (s *settling) owns(a Attachment) bool {
	if n := s.snap.Network(a.Network); n != nil && n.Bridged() {
		return n.hosts(a.V4) && n.hosts(a.V6)
	}
	for _, b := range s.node.BlocksOf(a.Network) {
		if b.V4.Contains(a.V4) && b.V6.Contains(a.V6) && !b.own(a.V4) && !b.own(a.V6) {
			return true
		}
	}
	return false
}

// keeps tells whether an endpoint may keep a pair: it is a block's of the node, no other
// endpoint here has it, and the endpoint asks for no other.
func (s *settling) keeps(e *Endpoint, a Attachment) bool {
	for _, one := range a.both() {
		if s.holder[one] != e.ID {
			return false
		}
	}
	for _, asked := range s.snap.asked(e, a.Network) {
		if asked.addr != a.V4 && asked.addr != a.V6 {
			return false
		}
	}
	return s.owns(a)
}

// open tells whether an endpoint may have an address, as far as the endpoints here go.
func (s *settling) open(a at, e *Endpoint) bool {
	held, wished := s.holder[a], s.wished[a]
	return (held == "" || held == e.ID) && (wished == "" || wished == e.ID)
}

// until is when the rest of a pair ends; 0: it does not rest.
func (s *settling) until(a Attachment, service ServiceID) uint64 {
	both := a.both()
	return max(s.snap.restsUntil(both[0], s.node.ID, service, s.now), s.snap.restsUntil(both[1], s.node.ID, service, s.now))
}

// address picks a free pair by hash of the endpoint's ID, claiming one more block where the
// node's own are full. Where the network has few left, what rests is taken instead, longest
// rested first: an endpoint without an address, here or at a node that comes later, is worse
// than one that a stranger may speak to, and by clocks that are wrong a rest may last for a day.
func (s *settling) address(e *Endpoint, n *Network) (Attachment, error) {
	asked := s.snap.asked(e, n.ID)
	switch {
	case n.Bridged():
		return s.bridged(e, n, asked)
	case len(asked) > 0:
		return s.fixed(e, n, asked)
	}
	for {
		resting, rests := Attachment{}, uint64(0)
		for _, b := range s.node.BlocksOf(n.ID) {
			for a := range s.pairs(e, b) {
				until := s.until(a, "")
				if until == 0 {
					return a, nil
				}
				if rests == 0 || until < rests {
					resting, rests = a, until
				}
			}
		}
		if rests != 0 && !s.ample(n) {
			return resting, nil
		}
		if err := s.claimBlock(n); err != nil {
			if rests != 0 {
				return resting, nil
			}
			return Attachment{}, err
		}
	}
}

// ample tells whether a network has so many free blocks that a node may claim one only because
// what is in its own rests: a quarter of them, and at least one, stay for others.
func (s *settling) ample(n *Network) bool {
	count := n.blockCount()
	four, _ := s.claimed(n)
	left := count - len(four) - 1
	return left > 0 && 4*left >= count
}

// pairs gives those of a block that an endpoint may have, in its own order.
func (s *settling) pairs(e *Endpoint, b Block) func(yield func(Attachment) bool) {
	return func(yield func(Attachment) bool) {
		hosts := uint64(b.size() - 1)
		start := hash("address", string(e.ID))
		for i := range hosts {
			v4, v6 := b.address(int((start+i)%hosts) + 1)
			a := Attachment{Network: b.Network, V4: v4, V6: v6}
			both := a.both()
			if s.open(both[0], e) && s.open(both[1], e) && !yield(a) {
				return
			}
		}
	}
}

// own tells whether an address is the sandbox's, or none that a host may have.
func (b Block) own(a netip.Addr) bool {
	return a == b.Gateway4() || a == b.Gateway6() || a == b.V6.Addr()
}

// number is that of an address in its block, as Block.address counts; false where it is beyond
// those that have a partner.
func (b Block) number(a netip.Addr) (int, bool) {
	if a.Is4() {
		have, base := a.As4(), b.V4.Addr().As4()
		return int(binary.BigEndian.Uint32(have[:]) - binary.BigEndian.Uint32(base[:])), true
	}
	have := a.As16()
	low := binary.BigEndian.Uint64(have[8:])
	if low < 2 || low > uint64(b.size()) {
		return 0, false
	}
	return int(low - 1), true
}

// claimBlock claims a block in the node's own pseudo-random order, so that two
// halves of a partition rarely choose the same.
func (s *settling) claimBlock(n *Network) error {
	four, six := s.claimed(n)
	count := n.blockCount()
	start := int(hash("block", string(s.node.ID), string(n.ID)) % uint64(max(count, 1)))
	for i := range count {
		b := n.block((start + i) % count)
		if four[b.V4] == "" && s.claim(n, b, six) {
			return nil
		}
	}
	return s.noBlock(n)
}

// claimed are the blocks of a network that are taken, and by whom.
func (s *settling) claimed(n *Network) (four, six map[netip.Prefix]NodeID) {
	four, six = map[netip.Prefix]NodeID{}, map[netip.Prefix]NodeID{}
	note := func(node *Node) {
		for _, b := range node.Blocks {
			if b.Network == n.ID {
				four[b.V4], six[b.V6] = node.ID, node.ID
			}
		}
	}
	for _, other := range s.snap.Nodes {
		if other.ID != s.node.ID {
			note(other)
		}
	}
	note(s.node)
	return four, six
}

// claim takes a block whose IPv4 part is free. The IPv6 part of the same number may be taken,
// where an older claim took a further subnet away: then it is the next one.
func (s *settling) claim(n *Network, b Block, six map[netip.Prefix]NodeID) bool {
	reserved := n.virtual6()
	if six[b.V6] != "" || b.V6 == reserved {
		subnets := n.Subnets6()
		i := 0
		for count := parts(subnets, blockBits6); ; i++ {
			if i == count {
				return false
			}
			if b.V6 = part(subnets, blockBits6, i); six[b.V6] == "" && b.V6 != reserved {
				break
			}
		}
	}
	if len(s.node.Blocks) == blockLimit {
		return false
	}
	b.Claim = s.now
	s.node.Blocks = append(s.node.Blocks, b)
	return true
}

// needless are the node's blocks of networks that no endpoint here needs.
func (s *settling) needless(needed map[NetworkID]bool) {
	s.node.Blocks = slices.DeleteFunc(s.node.Blocks, func(b Block) bool { return !needed[b.Network] })
}

// release gives up the blocks that nobody has an address in, nor lately had. The first of a
// network stays: it has the sandbox's own address. That a rest ends makes a node write, once:
// what it keeps for nobody would be refused to everybody else.
func (s *settling) release() {
	used := map[netip.Prefix]bool{}
	note := func(a at) {
		n := s.snap.Network(a.network)
		switch {
		case n == nil || n.Bridged():
		case a.addr.Is4():
			used[netip.PrefixFrom(a.addr, n.Bits4).Masked()] = true
		default:
			used[netip.PrefixFrom(a.addr, blockBits6).Masked()] = true
		}
	}
	for a := range s.holder {
		note(a)
	}
	for a, r := range s.snap.rests {
		if r.until > s.now {
			note(a.at)
		}
	}
	first := map[NetworkID]bool{}
	s.node.Blocks = slices.DeleteFunc(s.node.Blocks, func(b Block) bool {
		if !first[b.Network] {
			first[b.Network] = true
			return false
		}
		return !used[b.V4] && !used[b.V6]
	})
}

// noBlock says who has the blocks, and how full this node's are.
func (s *settling) noBlock(n *Network) error {
	own := len(s.node.BlocksOf(n.ID))
	used, room := 0, 0
	for _, b := range s.node.BlocksOf(n.ID) {
		room += b.size() - 1
		for a := range s.holder {
			if a.network == n.ID && b.V4.Contains(a.addr) {
				used++
			}
		}
	}
	count, others := n.blockCount(), 0
	for _, node := range s.snap.Nodes {
		if node.ID != s.node.ID {
			others += len(node.BlocksOf(n.ID))
		}
	}
	return Refuse(PoolExhausted, "detach endpoints, or give the network one more subnet: sluice network update "+n.Name+" --subnet CIDR",
		"network %q has no address left for node %q: of %d blocks %d are its own and %d other nodes', %d are free; of the %d addresses of its own %d are used, %d are free",
		n.Name, s.node.Name, count, own, others, max(0, count-own-others), room, used, room-used)
}
