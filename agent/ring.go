package agent

import (
	"sync"

	"github.com/sluice-mesh/sluice/mesh"
)

// The refusals of a reader.
const (
	EventsGone   mesh.Reason = "EventsGone"   // the event asked for is not there any more, or never was
	RevisionGone mesh.Reason = "RevisionGone" // so is the change of the cluster's objects
	TooSlow      mesh.Reason = "TooSlow"      // the reader was overtaken
)

const (
	ringRoom  = 4096 // entries that are kept
	ringBatch = 256  // entries that a reader takes at a time

	// The same in bytes, of entries that can be large. An answer stays below the 4 MiB that gRPC's
	// clients take where they are told nothing else.
	ringBytes  = 16 << 20
	batchBytes = 1 << 20

	// startSpan is how many revisions one start of the agent has. A start's number is on the
	// disk before its first entry, so that revisions grow over restarts and whatever the
	// clock does, and none is given out twice.
	startSpan = 1_000_000_000_000
)

// ring keeps the last entries of a sequence. A reader has a place in it and nothing else: the
// writer never waits for one and keeps nothing for one. Safe for concurrent use.
type ring[T any] struct {
	what  string      // an entry, to who reads
	gone  mesh.Reason // of who asks for one that is not kept
	weigh func(T) int // the bytes of an entry; nil: all are small

	mu      sync.Mutex
	entries []T           // that of revision start+n at n modulo its length
	start   uint64        // the first revision of this start of the agent
	least   uint64        // that of the oldest entry that is kept, or of the next one
	next    uint64        // revision of the next entry
	bytes   int           // of those that are kept
	more    chan struct{} // closed by the next entry
}

// newRing keeps size entries; start is the number of the agent's start.
func newRing[T any](what string, gone mesh.Reason, start uint64, size int) *ring[T] {
	first := start*startSpan + 1
	return &ring[T]{what: what, gone: gone, entries: make([]T, size), start: first, least: first, next: first, more: make(chan struct{})}
}

// put adds the entries that entry gives for their revisions, n of them, as one step.
func (r *ring[T]) put(n int, entry func(i int, rev uint64) T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range n {
		if r.next-r.least == uint64(len(r.entries)) {
			r.dropLocked()
		}
		added := entry(i, r.next)
		r.entries[r.at(r.next)] = added
		r.next++
		for r.bytes += r.weight(added); r.bytes > ringBytes && r.least < r.next-1; {
			r.dropLocked()
		}
	}
	r.tellLocked()
}

func (r *ring[T]) weight(entry T) int {
	if r.weigh == nil {
		return 0
	}
	return r.weigh(entry)
}

// dropLocked keeps the oldest entry no more.
func (r *ring[T]) dropLocked() {
	var none T
	r.bytes -= r.weight(r.entries[r.at(r.least)])
	r.entries[r.at(r.least)] = none
	r.least++
}

func (r *ring[T]) tellLocked() {
	close(r.more)
	r.more = make(chan struct{})
}

// forget keeps no entry any more: what follows them will not be told either, so nobody can go on
// from one.
func (r *ring[T]) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.entries)
	r.next++
	r.least, r.bytes = r.next, 0
	r.tellLocked()
}

func (r *ring[T]) at(rev uint64) uint64 { return (rev - r.start) % uint64(len(r.entries)) }

// newest is the revision of the newest entry.
func (r *ring[T]) newest() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next - 1
}

// last returns the newest entry that is wanted; false where none is kept.
func (r *ring[T]) last(wanted func(T) bool) (found T, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rev := r.next; rev > r.least; rev-- {
		if entry := r.entries[r.at(rev-1)]; wanted(entry) {
			return entry, true
		}
	}
	return found, false
}

// place is where a reader is. For one goroutine at a time.
type place[T any] struct {
	ring *ring[T]
	last uint64 // revision of the last entry that was read
}

// after begins behind the entry of a revision; 0 is before all that are kept. It
// refuses where the entry that follows is not kept: no reader misses one unknowingly.
func (r *ring[T]) after(rev uint64) (*place[T], error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest, newest := r.least, r.next-1
	switch {
	case rev == 0:
		return &place[T]{r, oldest - 1}, nil
	case rev > newest:
		return nil, mesh.Refuse(r.gone, "ask without a revision", "the newest %s here has revision %d, there never was %d", r.what, newest, rev)
	case rev+1 < oldest:
		return nil, mesh.Refuse(r.gone, "look at sluice status for how things are, and ask without a revision",
			"what followed %s %d is not kept any more, the oldest %s still there has revision %d", r.what, rev, r.what, oldest)
	}
	return &place[T]{r, rev}, nil
}

// read takes the entries that follow, at most ringBatch and about batchBytes; where there are none, more
// is closed by the next one. A reader that was overtaken is refused.
func (p *place[T]) read() (batch []T, more <-chan struct{}, err error) {
	r := p.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if oldest := r.least; p.last+1 < oldest {
		return nil, nil, mesh.Refuse(TooSlow, "look at sluice status for how things are, and ask again",
			"%ss came faster than they were read: %d is the last that was, %d the oldest still there", r.what, p.last, oldest)
	}
	for bytes := 0; len(batch) < ringBatch && bytes < batchBytes && p.last+1 < r.next; {
		p.last++
		entry := r.entries[r.at(p.last)]
		bytes += r.weight(entry)
		batch = append(batch, entry)
	}
	return batch, r.more, nil
}
