package agent

import (
	"bytes"
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
	if err != nil || read.Maker != r.Maker { // for whom it is only its maker may say
		return nil
	}
	return &step{r.ID, from, read}
}

// ways are the steps from one CA to another.
type ways struct {
	into map[trust.Pin]*step   // by the CA that a step leads to; one each
	from map[trust.Pin][]*step // by the CA that it begins at
}

// ways are the steps with those of the membership's own trail, which are there before the
// records are, and after them. Whoever has an old key can make another step to a CA that was not
// its own work: the one that this node was led by counts.
func (m *membership) ways(all []*step) ways {
	w := ways{map[trust.Pin]*step{}, map[trust.Pin][]*step{}}
	records := map[trust.Pin][]*step{}
	for _, s := range all {
		records[s.Authority.Pin()] = append(records[s.Authority.Pin()], s)
	}
	for _, t := range m.trail.Steps() {
		s := &step{from: t.From, Rotated: trust.Rotated{Authority: t.Authority, Maker: t.Maker, Succession: t.Succession}}
		same := records[t.Authority.Pin()]
		if i := slices.IndexFunc(same, func(r *step) bool { return bytes.Equal(r.Succession, t.Succession) }); i >= 0 {
			s = same[i]
		} else {
			w.from[t.From.Pin()] = append(w.from[t.From.Pin()], s)
		}
		w.into[t.Authority.Pin()] = s
	}
	for _, s := range all {
		if w.into[s.Authority.Pin()] == nil {
			w.into[s.Authority.Pin()] = s
		}
		w.from[s.from.Pin()] = append(w.from[s.from.Pin()], s)
	}
	return w
}

// way is the steps from one CA to another, in order; false where none is known. It is looked for
// backwards, since of several that come after a CA one alone leads there.
func (w ways) way(from, to trust.Pin) ([]*step, bool) {
	var steps []*step
	for to != from {
		s := w.into[to]
		if s == nil || len(steps) > len(w.into) {
			return nil, false
		}
		steps, to = append(steps, s), s.from.Pin()
	}
	slices.Reverse(steps)
	return steps, true
}

// generations are the CAs that this node has believed, those that came before them, and those
// that came after them by nodes whose word counts. They have no order.
func (m *membership) generations(w ways, counts func(maker mesh.NodeID) bool) []*trust.Authority {
	known := append(slices.Clone(m.lineage), m.bundle.Authority.Public())
	has := map[trust.Pin]bool{}
	for _, a := range known {
		has[a.Pin()] = true
	}
	add := func(a *trust.Authority) {
		if !has[a.Pin()] {
			has[a.Pin()] = true
			known = append(known, a)
		}
	}
	for i := 0; i < len(known); i++ {
		if s := w.into[known[i].Pin()]; s != nil {
			add(s.from)
		}
		for _, s := range w.from[known[i].Pin()] {
			if !has[s.Authority.Pin()] && counts(s.Maker) {
				add(s.Authority)
			}
		}
	}
	return known
}

// present is the step by which the membership's CA came; nil for the first of all.
func (m *membership) present(all []*step) *step {
	return m.ways(all).into[m.bundle.Authority.Pin()]
}
