package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// An endpoint may ask for addresses of its own. Blocks are what nodes give addresses from, so a
// node that is asked for one of a free block claims that block, and the address of another
// node's block is refused by that node's name. Whoever has the address goes first; where two
// sides of a split gave it, the older claim of the block holds it, and the other endpoint stays
// without until it is free.

// validateFixed refuses addresses that nobody asks for.
func (e *Endpoint) validateFixed() error {
	if len(e.Fixed) > 2*(networkLimit+1) {
		return Refuse(BadValue, "give one address of each family for each network", "endpoint %s asks for %d addresses", e.Name, len(e.Fixed))
	}
	for i, a := range e.Fixed {
		if !validUnicast(a) {
			return Refuse(BadAddress, "give an address of one of its networks", "endpoint %s asks for %.60q", e.Name, a)
		}
		if i > 0 && e.Fixed[i-1].Compare(a) >= 0 {
			return Refuse(BadValue, "give each address once", "endpoint %s asks for addresses twice or out of order: %s", e.Name, a)
		}
	}
	return nil
}

// asked are the addresses that an endpoint asks for on one network.
func (snap *Snapshot) asked(e *Endpoint, id NetworkID) []at {
	n := snap.Network(id)
	if n == nil || len(e.Fixed) == 0 {
		return nil
	}
	var list []at
	for _, a := range e.Fixed {
		if n.Contains(a) {
			list = append(list, at{id, a})
		}
	}
	return list
}

// CheckFixed refuses addresses that an endpoint, which need not be there yet, cannot have at the
// time now: BadAddress where they are no endpoint's of its service's networks, BlockTaken where
// another node has the block, AddressTaken where another endpoint has or asks for it, and
// AddressRests where one had it a moment ago.
func (snap *Snapshot) CheckFixed(e *Endpoint, now uint64) error {
	service := snap.Service(e.Service)
	if service == nil || len(e.Fixed) == 0 {
		return nil
	}
	found := 0
	networks := e.Networks(service)
	for _, id := range networks {
		asked := snap.asked(e, id)
		if found += len(asked); len(asked) == 0 {
			continue
		}
		for _, a := range asked {
			if err := snap.checkWished(e, a); err != nil {
				return err
			}
		}
		if err := snap.fits(e, snap.Network(id), asked, now); err != nil {
			return err
		}
	}
	if found == len(e.Fixed) {
		return nil
	}
	for _, a := range e.Fixed {
		if !snap.anyContains(networks, a) {
			return notIn(service, a)
		}
	}
	return nil
}

func (snap *Snapshot) anyContains(ids []NetworkID, a netip.Addr) bool {
	return slices.ContainsFunc(ids, func(id NetworkID) bool { n := snap.Network(id); return n != nil && n.Contains(a) })
}

func notIn(service *Service, a netip.Addr) error {
	return Refuse(BadAddress, "give an address of one of the networks of the service: see sluice network ls", "%s is in no network of service %q", a, service.Name)
}

// stranded refuses a network's addresses to an endpoint that asks for one whose subnet went: to an
// older claim, or because another write of the network took the place of the one that added it.
// It is to have that one or none, since others were told of it. What it asked for on a network that
// its service uses no longer is over.
func (snap *Snapshot) stranded(e *Endpoint, service *Service, id NetworkID) error {
	uses := e.Networks(service)
	for _, a := range e.Fixed {
		answered := func(asked at) bool { return asked.addr.Is4() == a.Is4() }
		if snap.anyContains(uses, a) || slices.ContainsFunc(snap.asked(e, id), answered) {
			continue
		}
		// Networks has them with the subnets that they lost.
		here := func(n *Network) bool { return n.ID == id && n.Contains(a) }
		anywhere := func(n *Network) bool { return n.Contains(a) }
		if slices.ContainsFunc(snap.Networks, here) || !slices.ContainsFunc(snap.Networks, anywhere) {
			return Refuse(BadAddress, "give the subnet to the network again: sluice network update NETWORK --subnet CIDR, or attach the endpoint anew",
				"%s, which endpoint %q asks for, is in no network of service %q any more", a, e.Name, service.Name)
		}
	}
	return nil
}

// checkWished refuses what another endpoint waits for.
func (snap *Snapshot) checkWished(e *Endpoint, a at) error {
	for _, other := range snap.Endpoints {
		if other.ID == e.ID || !slices.Contains(other.Fixed, a.addr) {
			continue
		}
		if n := snap.Network(a.network); n != nil && n.Bridged() && other.Node != e.Node {
			continue
		}
		if s := snap.Service(other.Service); s != nil && slices.Contains(other.Networks(s), a.network) {
			return Refuse(AddressTaken, "choose another address, or detach that endpoint", "%s is asked for by endpoint %q", a.addr, other.Name)
		}
	}
	return nil
}

// fits refuses what an endpoint cannot have on a network at the time now.
func (snap *Snapshot) fits(e *Endpoint, n *Network, asked []at, now uint64) error {
	if len(asked) > 2 || len(asked) == 2 && asked[0].addr.Is4() == asked[1].addr.Is4() {
		return Refuse(BadValue, "give one address of each family for each network", "endpoint %s asks for several of one family on network %q", e.Name, n.Name)
	}
	if n.Bridged() {
		return cmp.Or(n.fitsBridge(asked), snap.checkAllHeld(e, n, asked, now))
	}
	want := n.blockFor(asked)
	for _, a := range asked {
		if n.virtual4().Contains(a.addr) || n.virtual6().Contains(a.addr) {
			return Refuse(BadAddress, "choose an address outside of it", "%s is in %s and %s, which network %q keeps for virtual addresses", a.addr, n.virtual4(), n.virtual6(), n.Name)
		}
		if want.V4.IsValid() && a.addr == want.Gateway4() || want.V6.IsValid() && (a.addr == want.Gateway6() || a.addr == want.V6.Addr()) {
			return Refuse(BadAddress, "choose another one", "%s is the first of a node's block, which is the address of that node's sandbox", a.addr)
		}
	}
	if err := snap.checkAllHeld(e, n, asked, now); err != nil {
		return err
	}
	for _, node := range snap.Nodes {
		for _, b := range node.BlocksOf(n.ID) {
			if node.ID == e.Node && len(asked) == 2 && (b.V4 == want.V4) != (b.V6 == want.V6) {
				return Refuse(BadAddress, "give addresses of one block, or only one of them", "%s and %s are not of one block of node %q, which has %s with %s", asked[0].addr, asked[1].addr, node.Name, b.V4, b.V6)
			}
			if node.ID != e.Node && (b.V4 == want.V4 || b.V6 == want.V6) {
				return snap.blockTaken(node, b, asked[0].addr, now)
			}
		}
	}
	return nil
}

// blockTaken refuses an address of another node's block, and says until when where the block only
// waits for what is in it to rest no more.
func (snap *Snapshot) blockTaken(node *Node, b Block, a netip.Addr, now uint64) error {
	const do = "attach it there, or choose another address"
	if until := snap.emptyFrom(node, b); until > now {
		return Refuse(BlockTaken, do+", or try again then", "node %q gives the addresses of %s and %s, where %s is: none is in use, and it gives them back at %s", node.Name, b.V4, b.V6, a, clock(until))
	}
	return Refuse(BlockTaken, do, "node %q gives the addresses of %s and %s, where %s is", node.Name, b.V4, b.V6, a)
}

// emptyFrom is when the last address of a block rests no more; 0 where one is in use or the block
// is the node's first, which it keeps.
func (snap *Snapshot) emptyFrom(node *Node, b Block) uint64 {
	if node.BlocksOf(b.Network)[0] == b {
		return 0
	}
	for _, e := range snap.Endpoints {
		if a, on := e.On(b.Network); on && e.Node == node.ID && (b.V4.Contains(a.V4) || b.V6.Contains(a.V6)) {
			return 0
		}
	}
	until := uint64(0)
	for a, r := range snap.rests {
		if a.at.network == b.Network && (b.V4.Contains(a.at.addr) || b.V6.Contains(a.at.addr)) {
			until = max(until, r.until)
		}
	}
	return until
}

// clock is a time of records as people read it.
func clock(micros uint64) string { return time.UnixMicro(int64(micros)).UTC().Format(time.RFC3339) }

func (snap *Snapshot) checkAllHeld(e *Endpoint, n *Network, asked []at, now uint64) error {
	for _, a := range asked {
		if err := snap.checkHeld(e, n, a, now); err != nil {
			return err
		}
	}
	return nil
}

// checkHeld refuses what another endpoint of the same node has, or some other had a moment ago.
func (snap *Snapshot) checkHeld(e *Endpoint, n *Network, a at, now uint64) error {
	for _, other := range snap.Endpoints {
		have, ok := other.On(n.ID)
		if ok && other.ID != e.ID && other.Node == e.Node && (have.V4 == a.addr || have.V6 == a.addr) {
			return Refuse(AddressTaken, "choose another address, or detach that endpoint", "%s is the address of endpoint %q", a.addr, other.Name)
		}
	}
	if until := snap.restsUntil(a, e.Node, e.Service, now); until != 0 {
		return Refuse(AddressRests, "choose another address, or try again then", "%s was that of an endpoint of another service, and is given to nobody until %s",
			a.addr, clock(until))
	}
	return nil
}

// blockFor is the block that has the addresses, as far as they say.
func (n *Network) blockFor(asked []at) Block {
	b := Block{Network: n.ID}
	for _, a := range asked {
		if a.addr.Is4() {
			b.V4 = partOf(n.Subnets4(), n.Bits4, a.addr)
		} else {
			b.V6 = partOf(n.Subnets6(), blockBits6, a.addr)
		}
	}
	return b
}

// Unmet is why an endpoint does not have what it asks for; nil where it does.
func (snap *Snapshot) Unmet(e *Endpoint) error {
	service := snap.Service(e.Service)
	if service == nil {
		return nil
	}
	for _, id := range e.Networks(service) {
		have, _ := e.On(id)
		for _, a := range snap.asked(e, id) {
			if a.addr == have.V4 || a.addr == have.V6 {
				continue
			}
			if err := snap.fits(e, snap.Network(id), snap.asked(e, id), timeLimit+restMicros); err != nil {
				return err
			}
			return Refuse(AddressTaken, "wait, or see sluice status on its node", "endpoint %q has not got %s yet", e.Name, a.addr)
		}
		if err := snap.stranded(e, service, id); err != nil {
			return err
		}
	}
	return nil
}

// askedPair is what was asked for; a family that was not has no address.
func askedPair(id NetworkID, asked []at) Attachment {
	a := Attachment{Network: id}
	for _, one := range asked {
		if one.addr.Is4() {
			a.V4 = one.addr
		} else {
			a.V6 = one.addr
		}
	}
	return a
}

// fixed gives what was asked for, and the partner in the other family.
func (s *settling) fixed(e *Endpoint, n *Network, asked []at) (Attachment, error) {
	if err := s.snap.fits(e, n, asked, s.now); err != nil {
		return Attachment{}, err
	}
	if err := s.unheld(e, asked); err != nil {
		return Attachment{}, err
	}
	b, err := s.blockWith(n, n.blockFor(asked))
	if err != nil {
		return Attachment{}, err
	}
	a := askedPair(n.ID, asked)
	switch {
	case !a.V4.IsValid():
		a.V4 = s.partner4(e, b, a.V6)
	case !a.V6.IsValid():
		a.V6 = s.partner6(e, b, a.V4)
	}
	if !a.V4.IsValid() {
		return Attachment{}, Refuse(PoolExhausted, "choose an address of another block", "block %s with %s has no IPv4 address left: %d of %d are used", b.V6, b.V4, b.size()-1, b.size()-1)
	}
	return a, nil
}

// unheld refuses what was given to another endpoint that was looked at just now.
func (s *settling) unheld(e *Endpoint, asked []at) error {
	for _, a := range asked {
		if other := s.holder[a]; other != "" && other != e.ID {
			return Refuse(AddressTaken, "choose another address, or detach that endpoint", "%s is the address of endpoint %q", a.addr, s.snap.nameOf(KindEndpoint, string(other)))
		}
	}
	return nil
}

// blockWith is the node's block that has the wanted parts, claimed where nobody has it.
func (s *settling) blockWith(n *Network, want Block) (Block, error) {
	for _, b := range s.node.BlocksOf(n.ID) {
		if (b.V4 == want.V4 || !want.V4.IsValid()) && (b.V6 == want.V6 || !want.V6.IsValid()) {
			return b, nil
		}
	}
	four, six := s.claimed(n)
	if six[want.V6] != "" || four[want.V4] != "" {
		return Block{}, s.noBlock(n) // claimed for another endpoint just now
	}
	// Of the part that is not wanted the one of the same number, or else a later one.
	count, start := n.blockCount(), n.numberOf(want)
	for i := range count {
		b := n.block((start + i) % count)
		b.V4, b.V6 = orPrefix(want.V4, b.V4), orPrefix(want.V6, b.V6)
		if four[b.V4] == "" && s.claim(n, b, six) {
			return s.node.Blocks[len(s.node.Blocks)-1], nil
		}
	}
	return Block{}, s.noBlock(n)
}

func orPrefix(p, otherwise netip.Prefix) netip.Prefix {
	if p.IsValid() {
		return p
	}
	return otherwise
}

// partner4 is a free IPv4 address for an IPv6 address of a block, that of the same number where
// it is free; the zero address where there is none.
func (s *settling) partner4(e *Endpoint, b Block, v6 netip.Addr) netip.Addr {
	free := func(a netip.Addr) bool { return s.spare(at{b.Network, a}, e) }
	if i, ok := b.number(v6); ok && i > 0 && i < b.size() {
		if v4, _ := b.address(i); free(v4) {
			return v4
		}
	}
	hosts := uint64(b.size() - 1)
	start := hash("address", string(e.ID))
	for i := range hosts {
		if v4, _ := b.address(int((start+i)%hosts) + 1); free(v4) {
			return v4
		}
	}
	return netip.Addr{}
}

// partner6 is a free IPv6 address for an IPv4 address of a block: that of the same number, or one
// so many blocks' sizes further that it is no other's partner.
func (s *settling) partner6(e *Endpoint, b Block, v4 netip.Addr) netip.Addr {
	i, _ := b.number(v4)
	for {
		_, v6 := b.address(i)
		if s.spare(at{b.Network, v6}, e) {
			return v6
		}
		i += b.size()
	}
}

// spare tells whether an endpoint may be given an address that it did not ask for.
func (s *settling) spare(a at, e *Endpoint) bool {
	return s.open(a, e) && s.snap.restsUntil(a, s.node.ID, e.Service, s.now) == 0
}
