package gossip

import (
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// refused remembers which records one side of an exchange would not take, such as those of a
// node whose clock is far ahead: they make the digests differ for good, and would go over again
// with each exchange. What is refused again is left out for twice as long, and all are tried again
// when this node's clock was set: it may have been the reason. Safe for concurrent use.
type refused struct {
	wall  func() time.Time
	began time.Time // with its reading of the clock that nobody sets

	mu    sync.Mutex
	waits map[refusal]wait
	ahead time.Duration // of the wall clock to the one that nobody sets
}

// wait is until when a record is left out, and for how long that is.
type wait struct {
	until time.Time
	long  time.Duration
}

// refusal is one content of a record, and who does not take it.
type refusal struct {
	by  mesh.NodeID
	key mesh.Key
	sum short
}

const (
	refusedFirst = 2 * time.Second // the reason may be gone in a moment, or the peer had it already
	refusedMost  = time.Minute     // the node may have another version by then
	refusedLimit = 4096            // what is more goes over each time
	refusedStep  = time.Second     // of the wall clock; less is no reason to refuse a record
)

// newRefused reads the wall clock by a function; nil: the host's.
func newRefused(wall func() time.Time) *refused {
	if wall == nil {
		wall = time.Now
	}
	r := &refused{wall: wall, began: time.Now(), waits: map[refusal]wait{}}
	r.refresh()
	return r
}

// refresh forgets all where the wall clock was set, and returns the time. It is called with mu held.
func (r *refused) refresh() time.Time {
	now := time.Now()
	ahead := r.wall().Round(0).Sub(r.began.Round(0)) - now.Sub(r.began)
	if step := ahead - r.ahead; step.Abs() >= refusedStep {
		r.ahead = ahead
		clear(r.waits)
	}
	return now
}

// note remembers a refusal, if there is room.
func (r *refused) note(one refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.refresh()
	if len(r.waits) >= refusedLimit {
		r.drop(func(w wait) bool { return now.After(w.until) })
	}
	long := refusedFirst
	if was, again := r.waits[one]; again {
		long = min(2*was.long, refusedMost)
	} else if len(r.waits) >= refusedLimit {
		return
	}
	r.waits[one] = wait{now.Add(long), long}
}

// taken forgets a refusal.
func (r *refused) taken(one refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waits, one)
}

// has tells whether to try again is too early.
func (r *refused) has(one refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refresh().Before(r.waits[one].until)
}

// any tells whether a node has refused something of late, and drops what was not refused again
// for a while.
func (r *refused) any(by mesh.NodeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.refresh()
	r.drop(func(w wait) bool { return now.Sub(w.until) > refusedMost })
	for one := range r.waits {
		if one.by == by {
			return true
		}
	}
	return false
}

func (r *refused) drop(old func(wait) bool) {
	for one, w := range r.waits {
		if old(w) {
			delete(r.waits, one)
		}
	}
}

// untaken are those of the keys that are not remembered as refused by a node. sums are the
// contents that would go over.
func (r *refused) untaken(by mesh.NodeID, keys []mesh.Key, sums map[mesh.Key]short) []mesh.Key {
	var left []mesh.Key
	for _, k := range keys {
		if !r.has(refusal{by, k, sums[k]}) {
			left = append(left, k)
		}
	}
	return left
}

func sumsByKey(heads []mesh.Head) map[mesh.Key]short {
	sums := make(map[mesh.Key]short, len(heads))
	for _, h := range heads {
		sums[h.Key] = shorten(h.Sum)
	}
	return sums
}
