package mesh

import "net/netip"

// heldPorts are published ports, each with the number of who has it. The zero value is empty and
// ready. Services publish thousands, so that what overlaps a port or a range is found in a tree
// over the port numbers, each node of which has sixteen below it.
type heldPorts struct {
	places map[portPlace]placeNumber
	within map[portNode]int // the least owner of anything in the node, plus 1
	over   map[portNode]int // the least owner of the whole node, but not of the one above it, plus 1
	single []heldPort       // not yet in the nodes above their ports, which only ranges ask for
}

// portNode is the ports that have the same first digits, as hexadecimal numbers. It has 8 bytes
// and no gap, which maps are fastest with.
type portNode struct {
	place placeNumber
	level uint16 // how many digits are left out
	ports uint16
}

// placeNumber is the number of a place in the order in which it came, from 1 on; 0: nobody has a
// port there.
type placeNumber uint32

// portPlace is where ports are compared: on one address, or, as the zero address, those that are
// on all; or whatever the address.
type portPlace struct {
	addr     netip.Addr
	proto    Proto
	wherever bool
}

type heldPort struct {
	place placeNumber
	port  uint16
	owner int
}

const portDigits = 4

func (n portNode) first() uint16 { return n.ports << (4 * n.level) }

func (n portNode) last() uint16 { return n.first() + 1<<(4*n.level) - 1 }

func (n portNode) up(levels uint16) portNode {
	return portNode{n.place, n.level + levels, uint16(uint32(n.ports) >> (4 * levels))}
}

func root(place placeNumber) portNode { return portNode{place: place, level: portDigits} }

// overlapped is who has a part of p; of several the least number.
func (h *heldPorts) overlapped(p PublishedPort) (owner int, overlaps bool) {
	found := 0
	if p.Addr.IsValid() {
		found = least(h.least(portPlace{addr: p.Addr, proto: p.Proto}, p), h.least(portPlace{proto: p.Proto}, p))
	} else {
		found = h.least(portPlace{proto: p.Proto, wherever: true}, p)
	}
	return found - 1, found != 0
}

// add notes that an owner, a number from 0 on, has p.
func (h *heldPorts) add(p PublishedPort, owner int) {
	if h.within == nil {
		h.places, h.within, h.over = map[portPlace]placeNumber{}, map[portNode]int{}, map[portNode]int{}
	}
	for _, named := range [2]portPlace{{addr: p.Addr, proto: p.Proto}, {proto: p.Proto, wherever: true}} {
		place := h.places[named]
		if place == 0 {
			place = placeNumber(len(h.places) + 1)
			h.places[named] = place
		}
		if p.Last == 0 {
			put(h.within, portNode{place: place, ports: p.Published}, owner+1)
			h.single = append(h.single, heldPort{place, p.Published, owner})
			continue
		}
		h.addRange(root(place), p, owner+1)
	}
}

func (h *heldPorts) addRange(n portNode, p PublishedPort, owner int) {
	if p.Published > n.last() || p.End() < n.first() {
		return
	}
	put(h.within, n, owner)
	if p.Published <= n.first() && n.last() <= p.End() {
		put(h.over, n, owner)
		return
	}
	for child := range n.children {
		h.addRange(child, p, owner)
	}
}

// least is the least owner of a part of p in a place, plus 1; 0: none.
func (h *heldPorts) least(named portPlace, p PublishedPort) int {
	place := h.places[named]
	if place == 0 {
		return 0
	}
	if p.Last != 0 {
		h.raise()
		return h.leastIn(root(place), p)
	}
	n := portNode{place: place, ports: p.Published}
	found := h.within[n]
	if len(h.over) > 0 {
		for level := range uint16(portDigits) {
			found = least(found, h.over[n.up(level+1)])
		}
	}
	return found
}

func (h *heldPorts) leastIn(n portNode, p PublishedPort) int {
	switch {
	case p.Published > n.last() || p.End() < n.first() || h.within[n] == 0:
		return 0
	case p.Published <= n.first() && n.last() <= p.End():
		return h.within[n]
	}
	found := h.over[n]
	for child := range n.children {
		found = least(found, h.leastIn(child, p))
	}
	return found
}

func (n portNode) children(yield func(portNode) bool) {
	for digit := range uint16(16) {
		if !yield(portNode{n.place, n.level - 1, n.ports<<4 | digit}) {
			return
		}
	}
}

// raise puts single ports into the nodes above them.
func (h *heldPorts) raise() {
	for _, s := range h.single {
		n := portNode{place: s.place, ports: s.port}
		for level := range uint16(portDigits) {
			put(h.within, n.up(level+1), s.owner+1)
		}
	}
	h.single = nil
}

func put(owners map[portNode]int, n portNode, owner int) {
	owners[n] = least(owners[n], owner)
}

// least is the lesser of two owners, where 0 is none.
func least(a, b int) int {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
