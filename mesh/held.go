package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// HeldPort is a published port that one node does not capture, since somebody else on
// it has the port. It goes on being theirs there; the other nodes answer.
type HeldPort struct {
	Addr      netip.Addr // as it is published: only this local address, or the zero value
	Proto     Proto
	Published uint16
	By        string // who has it: "nginx (pid 812)"
}

// Port is what is published, without a target.
func (h HeldPort) Port() PublishedPort {
	return PublishedPort{Addr: h.Addr, Proto: h.Proto, Published: h.Published}
}

// Of tells whether h is about the publication p, or a port of its range.
func (h HeldPort) Of(p PublishedPort) bool {
	return h.Addr == p.Addr && h.Proto == p.Proto && p.Published <= h.Published && h.Published <= p.End()
}

// compareHeld orders by what is published; a node says each port once.
func compareHeld(a, b HeldPort) int { return comparePublished(a.Port(), b.Port()) }

// Limits of what a node's record says of held ports.
const (
	heldLimit   = 64
	holderLimit = 100 // characters
)

// Reported is what a node's record says of the ports that are held there: the first
// of them in a fixed order. It knows all of its own by itself; others need to know
// that, and who.
func Reported(held []HeldPort) []HeldPort {
	sorted := slices.SortedFunc(slices.Values(held), compareHeld)
	return sorted[:min(len(sorted), heldLimit)]
}

// validateHeld refuses what Reported would not give. Holders are named by processes of
// the node, and the names go to terminals and logs of others.
func (n *Node) validateHeld() error {
	const do = "update the node that wrote it"
	if len(n.Held) > heldLimit {
		return Refuse(BadRecord, do, "node %s says that %d ports are held there, the limit is %d", n.Name, len(n.Held), heldLimit)
	}
	for i, h := range n.Held {
		p := h.Port()
		p.Target = 1 // any: a held port has none
		if err := p.validate(); err != nil {
			return err
		}
		if i > 0 && compareHeld(n.Held[i-1], h) >= 0 {
			return Refuse(BadRecord, do, "node %s names held ports out of order", n.Name)
		}
		if !validHolder(h.By) {
			return Refuse(BadRecord, do, "node %s says that %s is held by %.40q", n.Name, p.Front(), h.By)
		}
	}
	return nil
}

// validHolder tells whether a text is printable ASCII, neither empty nor too long.
func validHolder(by string) bool {
	ok := by != "" && len(by) <= holderLimit
	for i := range len(by) {
		ok = ok && by[i] >= ' ' && by[i] <= '~'
	}
	return ok
}

// Holder is a node on which a published port is held.
type Holder struct {
	Node *Node
	HeldPort
}

// HeldOf lists where ports of a service are held, as far as their nodes have said so,
// by the names of the nodes.
func (snap *Snapshot) HeldOf(s *Service) []Holder {
	var held []Holder
	for _, n := range snap.Nodes {
		for _, h := range n.Held {
			if slices.ContainsFunc(s.Publish, h.Of) {
				held = append(held, Holder{n, h})
			}
		}
	}
	slices.SortStableFunc(held, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.Node.Name, b.Node.Name), cmp.Compare(a.Node.ID, b.Node.ID))
	})
	return held
}
