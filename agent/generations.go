package agent

import (
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// step is what one rotation says: which CA came after which, who made it, and for whom.
type step struct {
	id   string // of the rotation; "" where it is known by a trail alone, and not for whom
	from *trust.Authority
	trust.Rotated
}

// sealedTo tells whether the step's keys are sealed to a node.
func (s *step) sealedTo(id mesh.NodeID) bool {
	_, found := slices.BinarySearch(s.Nodes, id)
	return found
}

// steps remembers rotations that were read: a rotation's ID is the hash of its data, so what
// it says does not change. Safe for concurrent use.
type steps struct {
	mu   sync.Mutex
	read map[string]*step // by ID; nil: it cannot be read
}

// of reads those rotations of a snapshot that can be read.
func (s *steps) of(snap *mesh.Snapshot) []*step {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read == nil {
		s.read = map[string]*step{}
	}
	var all []*step
	for _, r := range snap.Rotations {
		one, known := s.read[r.ID]
		if !known {
			one = readStep(r)
			s.read[r.ID] = one
		}
		if one != nil {
			all = append(all, one)
		}
	}
	return all
}

func readStep(r *mesh.Rotation) *step {
	from, err := trust.ParseAuthority(r.From)
	if err != nil {
		return nil
	}
	read, err := from.ReadRotation(r.Data)
	if err != nil {
		return nil
	}
	return &step{r.ID, from, read}
}

// links are the steps with those of the membership's own trail, which are there before the
// records are, and after them.
func (m *membership) links(all []*step) []*step {
	links := slices.Clone(all)
	for _, s := range m.trail.Steps() {
		if into(all, s.Authority.Pin()) == nil {
			links = append(links, &step{from: s.From, Rotated: trust.Rotated{Authority: s.Authority, Maker: s.Maker, Succession: s.Succession}})
		}
	}
	return links
}

// generations are the CAs that this node has believed, the oldest first, and those that the
// steps and its trail say to come before or after them.
func (m *membership) generations(all []*step) []*trust.Authority {
	all = m.links(all)
	known := append(slices.Clone(m.lineage), m.bundle.Authority.Public())
	has := func(a *trust.Authority) bool {
		return slices.ContainsFunc(known, func(b *trust.Authority) bool { return a.Pin() == b.Pin() })
	}
	for found := true; found; {
		found = false
		for _, s := range all {
			switch {
			case has(s.from) && !has(s.Authority):
				known, found = append(known, s.Authority), true
			case has(s.Authority) && !has(s.from):
				known, found = append(known, s.from), true
			}
		}
	}
	slices.SortFunc(known, (*trust.Authority).Compare)
	return known
}

// present is the step by which the membership's CA came; nil for the first of all.
func (m *membership) present(all []*step) *step { return into(all, m.bundle.Authority.Pin()) }

// into is the step that leads to a CA; nil where none is known.
func into(all []*step, pin trust.Pin) *step {
	for _, s := range all {
		if s.Authority.Pin() == pin {
			return s
		}
	}
	return nil
}

// way is the steps from one CA to another, in order; false where none is known. Each CA has one
// before it, so it is looked for backwards.
func way(all []*step, from, to trust.Pin) ([]*step, bool) {
	var steps []*step
	for to != from {
		s := into(all, to)
		if s == nil || len(steps) > len(all) {
			return nil, false
		}
		steps, to = append(steps, s), s.from.Pin()
	}
	slices.Reverse(steps)
	return steps, true
}
