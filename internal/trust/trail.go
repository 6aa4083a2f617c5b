package trust

import (
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// Trail is how the present CA came to be: successions, each the word of the CA before, from one
// that was believed once. Whoever has it can lead others on without any record of the cluster.
// It is public, does not change, and the zero value is that of a cluster's first CA.
type Trail struct{ steps []Step }

// Step is one succession that was judged.
type Step struct {
	From, Authority *Authority // without their keys
	Maker           mesh.NodeID
	Succession      []byte
}

// TrailLimit is how many successions a Trail has at most; the oldest go first. Who knows none of
// the CAs that are left on it has to be led by the cluster's records, or joins again.
const TrailLimit = 32

type wireTrail struct {
	Version     int      `json:"v"`
	First       []byte   `json:"first"` // DER of the CA that the first succession is of
	Successions [][]byte `json:"successions"`
}

// trailLimit is for TrailLimit successions of 1.6 KB, as they are in JSON.
const trailLimit = 56 << 10

// Steps are the successions, the oldest first. They must not be changed.
func (t Trail) Steps() []Step { return t.steps }

// End is the CA that the trail leads to; nil where it has no step.
func (t Trail) End() *Authority {
	if len(t.steps) == 0 {
		return nil
	}
	return t.steps[len(t.steps)-1].Authority
}

// Extend is the trail that goes on from a CA by some successions. What t has up to that CA stays;
// where it does not pass there, the trail begins there. It refuses as Authority.Follow does.
func (t Trail) Extend(from *Authority, successions ...[]byte) (Trail, error) {
	next := Trail{}
	if i := slices.IndexFunc(t.steps, func(s Step) bool { return s.Authority.Pin() == from.Pin() }); i >= 0 {
		next.steps = slices.Clone(t.steps[:i+1])
	}
	reached := from.Public()
	for _, s := range successions {
		a, maker, err := reached.Follow(s)
		if err != nil {
			return Trail{}, err
		}
		next.steps = append(next.steps, Step{reached, a, maker, s})
		reached = a
	}
	if over := len(next.steps) - TrailLimit; over > 0 {
		next.steps = next.steps[over:]
	}
	return next, nil
}

func (t Trail) wire() *wireTrail {
	if len(t.steps) == 0 {
		return nil
	}
	w := &wireTrail{Version: formatVersion, First: t.steps[0].From.Certificate()}
	for _, s := range t.steps {
		w.Successions = append(w.Successions, s.Succession)
	}
	return w
}

// trail judges each succession, and that they lead to a CA. Nothing at all is the zero Trail.
func (w *wireTrail) trail(to *Authority) (Trail, error) {
	if w == nil {
		return Trail{}, nil
	}
	if n := len(w.Successions); n == 0 || n > TrailLimit {
		return Trail{}, damaged("the trail of CAs", "it has no steps, or too many")
	}
	first, err := ParseAuthority(w.First)
	if err != nil {
		return Trail{}, err
	}
	t, err := Trail{}.Extend(first, w.Successions...)
	if err != nil {
		return Trail{}, err
	}
	if t.End().Pin() != to.Pin() {
		return Trail{}, mesh.Refuse(WrongCluster, "join again with a new token", "the trail of CAs leads to another than %s", to)
	}
	return t, nil
}

// Marshal is the trail as ParseTrail reads it; nothing where it has no step.
func (t Trail) Marshal() ([]byte, error) {
	w := t.wire()
	if w == nil {
		return nil, nil
	}
	return encode(w)
}

// ParseTrail is the inverse of Marshal, for a trail that leads to a CA. It refuses with
// BadMessage, NewerVersion, WrongCluster, or as Authority.Follow does.
func ParseTrail(data []byte, to *Authority) (Trail, error) {
	if len(data) == 0 {
		return Trail{}, nil
	}
	var w wireTrail
	if err := decode("the trail of CAs", data, trailLimit, &w); err != nil {
		return Trail{}, err
	}
	return w.trail(to)
}
