package mesh

import (
	"cmp"
	"maps"
	"slices"
)

// Settle says what a node must write so that its own claims stand: a slot, a
// block on each network that its endpoints need, an address for each of their
// interfaces. It is level-triggered: called after every change, it returns
// nothing once all is well. An endpoint whose service is gone is deleted, a claim
// that an older one beats is given up and made anew. now is the time of the
// claims it makes; versions are set by the caller.
//
// What there was no room for comes back as refusals by endpoint.
func Settle(snap *Snapshot, self NodeID, now uint64) ([]Record, map[EndpointID]error) {
	held := snap.Node(self)
	if held == nil {
		return nil, nil
	}
	s := settling{snap: snap, node: held.clone(), now: now, given: map[Attachment]bool{}}
	s.slot()
	var records []Record
	refused := map[EndpointID]error{}
	needed := map[NetworkID]bool{}
	for _, e := range byClaim(snap.Local(self)) {
		service := snap.Service(e.Service)
		if service == nil {
			r := EndpointRecord(e)
			r.Endpoint, r.Deleted = nil, true
			records = append(records, r)
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
	s.node.Blocks = slices.DeleteFunc(s.node.Blocks, func(b Block) bool { return !needed[b.Network] })
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

	given map[Attachment]bool // to the endpoints that were looked at
}

// byClaim puts endpoints that have their addresses first, so that a newcomer
// never gets an address that somebody has.
func byClaim(local []*Endpoint) []*Endpoint {
	sorted := slices.Clone(local)
	slices.SortStableFunc(sorted, func(a, b *Endpoint) int { return cmp.Compare(len(b.Attached), len(a.Attached)) })
	return sorted
}

// slot claims a slot where the node has none or lost it to an older claim.
func (s *settling) slot() {
	if s.node.Slot != 0 {
		return
	}
	taken := map[Slot]bool{}
	for _, n := range s.snap.Nodes {
		taken[n.Slot] = true
	}
	start := hash("slot", string(s.node.ID))
	for i := range uint64(slotCount) {
		if c := Slot((start+i)%slotCount + 1); !taken[c] {
			s.node.Slot, s.node.SlotClaim = c, s.now
			return
		}
	}
}

// others tells whether a block of another node satisfies f.
func (s *settling) others(f func(Block) bool) bool {
	return slices.ContainsFunc(s.snap.Nodes, func(n *Node) bool { return n.ID != s.node.ID && slices.ContainsFunc(n.Blocks, f) })
}

// attach returns the endpoint with an address on each network that its service
// uses and that exists, keeping those it has.
func (s *settling) attach(e *Endpoint, service *Service, needed map[NetworkID]bool) (*Endpoint, error) {
	next := e.clone()
	next.Attached = nil
	var refused error
	for _, id := range service.Uses() {
		n := s.snap.Network(id)
		if n == nil {
			continue
		}
		needed[id] = true
		if a, ok := e.On(id); ok && s.owns(a) && !s.given[a] {
			s.given[a] = true
			next.Attached = append(next.Attached, a)
			continue
		}
		a, err := s.address(e, n)
		if err != nil {
			refused = err
			continue
		}
		s.given[a] = true
		next.Attached = append(next.Attached, a)
	}
	slices.SortFunc(next.Attached, func(a, b Attachment) int { return cmp.Compare(a.Network, b.Network) })
	if !slices.Equal(next.Attached, e.Attached) {
		s.snap = s.snap.with(next)
	}
	return next, refused
}

func (s *settling) owns(a Attachment) bool {
	for _, b := range s.node.BlocksOf(a.Network) {
		if b.V4.Contains(a.V4) && b.V6.Contains(a.V6) && a.V4 != b.Gateway4() {
			return true
		}
	}
	return false
}

// address picks a free pair by hash of the endpoint's ID, claiming one more
// block where the node's own are full.
func (s *settling) address(e *Endpoint, n *Network) (Attachment, error) {
	used := maps.Clone(s.given)
	for _, other := range s.snap.Endpoints {
		if a, ok := other.On(n.ID); ok && other.Node == s.node.ID && other.ID != e.ID {
			used[a] = true
		}
	}
	for {
		for _, b := range s.node.BlocksOf(n.ID) {
			hosts := uint64(b.size() - 1)
			start := hash("address", string(e.ID))
			for i := range hosts {
				v4, v6 := b.address(int((start+i)%hosts) + 1)
				if a := (Attachment{Network: n.ID, V4: v4, V6: v6}); !used[a] {
					return a, nil
				}
			}
		}
		if err := s.claimBlock(n); err != nil {
			return Attachment{}, err
		}
	}
}

// claimBlock claims a block in the node's own pseudo-random order, so that two
// halves of a partition rarely choose the same.
func (s *settling) claimBlock(n *Network) error {
	count := n.blockCount()
	start := int(hash("block", string(s.node.ID), string(n.ID)) % uint64(max(count, 1)))
	for i := range count {
		b := n.block((start + i) % count)
		b.Claim = s.now
		same := func(have Block) bool { return have.Network == n.ID && (have.V4 == b.V4 || have.V6 == b.V6) }
		if !slices.ContainsFunc(s.node.Blocks, same) && !s.others(same) {
			s.node.Blocks = append(s.node.Blocks, b)
			return nil
		}
	}
	return Refuse(PoolExhausted, "detach endpoints or make the network's subnet larger", "network %q has no free block: %d of %d in use", n.Name, count, count)
}

// with returns a view of the snapshot in which one endpoint is replaced; only
// Endpoints is right in it.
func (snap *Snapshot) with(e *Endpoint) *Snapshot {
	c := *snap
	c.Endpoints = slices.Clone(snap.Endpoints)
	for i, have := range c.Endpoints {
		if have.ID == e.ID {
			c.Endpoints[i] = e
		}
	}
	return &c
}
