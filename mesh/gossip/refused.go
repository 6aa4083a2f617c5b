package gossip

import (
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// refused remembers which records one side of an exchange would not take, such as those of a
// node whose clock is far ahead: they make the digests differ for good, and would go over again
// with each exchange. Safe for concurrent use.
type refused struct {
	mu    sync.Mutex
	until map[refusal]time.Time
}

// refusal is one content of a record, and who does not take it.
type refusal struct {
	by  mesh.NodeID
	key mesh.Key
	sum short
}

const (
	refusedFor   = time.Minute // then it is tried again: the node may have another clock, or version
	refusedLimit = 4096        // what is more goes over each time
)

func newRefused() *refused { return &refused{until: map[refusal]time.Time{}} }

// note remembers a refusal, if there is room.
func (r *refused) note(one refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.until) >= refusedLimit {
		for have, until := range r.until {
			if now.After(until) {
				delete(r.until, have)
			}
		}
	}
	if len(r.until) < refusedLimit {
		r.until[one] = now.Add(refusedFor)
	}
}

// has tells whether to try again is too early.
func (r *refused) has(one refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.until[one])
}

// any tells whether there may be something.
func (r *refused) any() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.until) > 0
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
