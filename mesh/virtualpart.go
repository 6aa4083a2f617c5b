package mesh

import (
	"encoding/binary"
	"net/netip"
)

// VirtualParts are what an overlay keeps for virtual addresses, one a family.
func (n *Network) VirtualParts() []netip.Prefix { return []netip.Prefix{n.virtual4(), n.virtual6()} }

// virtualPart is what one network keeps for virtual addresses, and which of them are taken.
type virtualPart struct {
	network   *Network
	four, six netip.Prefix
	count     int
	beyond    map[int]int           // of a number that is a service's: where the next free one may be
	given     int                   // to how many services
	blocks    map[netip.Prefix]bool // that nodes hold since before they were for virtual addresses
}

// virtualParts are those of all networks that are built and whose services have virtual addresses.
func (snap *Snapshot) virtualParts() map[NetworkID]*virtualPart {
	parts := map[NetworkID]*virtualPart{}
	for id, n := range snap.networks {
		if n.Bridged() || n.Ingress() {
			continue
		}
		part := &virtualPart{network: n, four: n.virtual4(), six: n.virtual6()}
		// Neither the first, which is no host's, nor the last, which is the subnet's broadcast address.
		part.count = 1<<(32-part.four.Bits()) - 2
		parts[id] = part
	}
	for _, node := range snap.Nodes {
		for _, b := range node.Blocks {
			if part := parts[b.Network]; part != nil && part.four.Contains(b.V4.Addr()) {
				if part.blocks == nil {
					part.blocks = map[netip.Prefix]bool{}
				}
				part.blocks[b.V4] = true
			}
		}
	}
	return parts
}

func (p *virtualPart) start(id ServiceID) int {
	return int(hash("virtual", string(id)) % uint64(p.count))
}

// pair is the pair of addresses with a number from 0 on.
func (p *virtualPart) pair(i int) Attachment {
	six := p.six.Addr().As16()
	binary.BigEndian.PutUint64(six[8:], uint64(i+2))
	return Attachment{p.network.ID, nth4(p.four, 32, i+1).Addr(), netip.AddrFrom16(six)}
}

// number is the inverse of pair, of what is in the part.
func (p *virtualPart) number(a Attachment) int {
	have, base := a.V4.As4(), p.four.Addr().As4()
	return int(binary.BigEndian.Uint32(have[:])-binary.BigEndian.Uint32(base[:])) - 1
}

// has tells whether a is a pair of the part. It may come from anybody.
func (p *virtualPart) has(a Attachment) bool {
	if !p.four.Contains(a.V4) {
		return false
	}
	i := p.number(a)
	return i >= 0 && i < p.count && p.pair(i) == a
}

// free tells whether a pair of the part is nobody's.
func (p *virtualPart) free(a Attachment) bool {
	i := p.number(a)
	_, taken := p.beyond[i]
	return !taken && p.blockEnd(i) == i
}

// give gives a pair that is free.
func (p *virtualPart) give(a Attachment) {
	if p.beyond == nil {
		p.beyond = map[int]int{}
	}
	i := p.number(a)
	p.beyond[i] = i + 1
	p.given++
}

// blockEnd is the first number after the block of a node that a number is in, or the number itself.
func (p *virtualPart) blockEnd(i int) int {
	if len(p.blocks) == 0 {
		return i
	}
	b := netip.PrefixFrom(p.pair(i).V4, p.network.Bits4).Masked()
	if !p.blocks[b] {
		return i
	}
	return p.number(Attachment{V4: lastOf(b)}) + 1
}

// next is the first pair that is free, from the one with the number start on.
func (p *virtualPart) next(start int) (Attachment, bool) {
	for _, from := range []int{start, 0} {
		if i := p.seek(from); i < p.count {
			return p.pair(i), true
		}
	}
	return Attachment{}, false
}

// seek is the first free number from one on, or one beyond all. What it passes it passes at once
// the next time: whoever writes many services with one pair is not to cost a walk for each.
func (p *virtualPart) seek(from int) int {
	i := from
	var passed []int
	for i < p.count {
		after, taken := p.beyond[i]
		if !taken {
			if after = p.blockEnd(i); after == i {
				break
			}
		}
		passed, i = append(passed, i), after
	}
	for _, one := range passed {
		if _, taken := p.beyond[one]; taken {
			p.beyond[one] = i
		}
	}
	return i
}
