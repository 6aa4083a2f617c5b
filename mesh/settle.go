package mesh

import (
	"cmp"
	"slices"
)

// Settle says what a node must write so that its own claims stand: a slot, a
// block on each network that its endpoints need, an address for each of their
// interfaces. It is level-triggered: called after every change, it returns
// nothing once all is well. An endpoint whose service is gone is deleted, a claim
// that an older one beats is given up and made anew. now is the time of the
// claims it makes; versions are set by the caller.
//
// What there was no room for comes back as refusals by endpoint, and that the node itself has
// no slot under the empty ID.
func Settle(snap *Snapshot, self NodeID, now uint64) ([]Record, map[EndpointID]error) {
	held := snap.Node(self)
	if held == nil {
		return nil, nil
	}
	local := byClaim(snap.Local(self))
	s := newSettling(snap, held, local, now)
	var records []Record
	refused := map[EndpointID]error{}
	if err := s.slot(); err != nil {
		refused[""] = err
	}
	needed := map[NetworkID]bool{}
	for _, e := range local {
		service := snap.Service(e.Service)
		if service == nil {
			records = append(records, Tombstone(EndpointRecord(e)))
			continue
		}
		next, err := s.attach(e, service, needed)
		if err != nil {
			refused[e.ID] = err
		}
		if !slices.Equal(next.Attached, e.Attached) {
			records = append(records, EndpointRecord(next))
		}
	}
	s.needless(needed)
	s.release()
	old := held
	if w := snap.written[self]; w != nil {
		old = w
	}
	if old.Slot != s.node.Slot || !slices.Equal(old.Blocks, s.node.Blocks) {
		records = append(records, NodeRecord(s.node))
	}
	return records, refused
}

type settling struct {
	snap *Snapshot
	node *Node
	now  uint64

	holder map[at]EndpointID // the endpoints here and what they have, or are given
	wished map[at]EndpointID // what one of them asks for
}

func newSettling(snap *Snapshot, held *Node, local []*Endpoint, now uint64) settling {
	s := settling{snap: snap, node: held.clone(), now: now, holder: map[at]EndpointID{}, wished: map[at]EndpointID{}}
	for _, e := range local {
		service := snap.Service(e.Service)
		if service == nil {
			continue
		}
		for _, a := range e.Attached {
			if s.owns(a) {
				s.hold(a, e.ID)
			}
		}
		for _, id := range e.Networks(service) {
			for _, a := range snap.asked(e, id) {
				if s.wished[a] == "" {
					s.wished[a] = e.ID
				}
			}
		}
	}
	return s
}

// hold gives an endpoint a pair that none has, or only a part of it.
func (s *settling) hold(a Attachment, id EndpointID) {
	for _, one := range a.both() {
		if s.holder[one] == "" {
			s.holder[one] = id
		}
	}
}

// byClaim puts endpoints that have their addresses first, so that a newcomer
// never gets an address that somebody has, and of the others those that ask for one.
func byClaim(local []*Endpoint) []*Endpoint {
	sorted := slices.Clone(local)
	slices.SortStableFunc(sorted, func(a, b *Endpoint) int {
		return cmp.Or(cmp.Compare(len(b.Attached), len(a.Attached)), cmp.Compare(len(b.Fixed), len(a.Fixed)))
	})
	return sorted
}

// slot claims a slot where the node has none or lost it to an older claim.
func (s *settling) slot() error {
	if s.node.Slot != 0 {
		return nil
	}
	taken := map[Slot]bool{}
	for _, n := range s.snap.Nodes {
		taken[n.Slot] = true
	}
	start := hash("slot", string(s.node.ID))
	for i := range uint64(slotCount) {
		if c := Slot((start+i)%slotCount + 1); !taken[c] {
			s.node.Slot, s.node.SlotClaim = c, s.now
			return nil
		}
	}
	return Refuse(PoolExhausted, "remove nodes that are gone: sluice node rm NODE", "node %q has no slot: of %d %d are in use, 0 are free", s.node.Name, slotCount, slotCount)
}

// attach returns the endpoint with an address on each network that its service
// uses or it has joined and that exists, keeping those it has.
func (s *settling) attach(e *Endpoint, service *Service, needed map[NetworkID]bool) (*Endpoint, error) {
	next := e.clone()
	next.Attached = nil
	var refused error
	for _, id := range e.Networks(service) {
		n := s.snap.Network(id)
		if n == nil {
			continue
		}
		needed[id] = true
		stranded := s.snap.stranded(e, service, id)
		refused = cmp.Or(stranded, refused)
		have, attached := e.On(id)
		if attached && s.keeps(e, have) {
			next.Attached = append(next.Attached, have)
			continue
		}
		if stranded != nil {
			continue
		}
		a, err := s.address(e, n)
		if err != nil {
			refused = err
			continue
		}
		s.hold(a, e.ID)
		next.Attached = append(next.Attached, a)
	}
	slices.SortFunc(next.Attached, func(a, b Attachment) int { return cmp.Compare(a.Network, b.Network) })
	for _, a := range e.Attached {
		if !slices.Contains(next.Attached, a) {
			next.leave(a, s.now)
		}
	}
	return next, refused
}
