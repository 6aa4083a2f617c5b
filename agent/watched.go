package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

const (
	// watchPause is between two looks at the cluster; where a look, which is at all objects, takes
	// long, the pause is watchShare of that, so that looking costs little of a processor. Several
	// changes in it are told as one.
	watchPause = 100 * time.Millisecond
	watchShare = 10

	// watchKept is for how long a reader that was cut can go on where it was: nobody looks
	// longer than that for readers that are not there.
	watchKept = 5 * time.Minute
)

// watched is the cluster as its readers saw it, and what changed since. It looks only where
// somebody reads or has done so a moment ago. Safe for concurrent use.
type watched struct {
	source watchSource
	now    func() time.Time
	wanted chan struct{} // holds one token when somebody begins to read

	mu      sync.Mutex
	changes *ring[change]
	have    seen // nil while nobody looks
	readers int  // that are there
	opening map[*opening]bool
	until   time.Time // how long it is looked without readers
}

// watchSource is where there is something to watch. It is asked by one goroutine at a time.
type watchSource interface {
	// Look returns what there is, or false where that is what it returned last.
	Look() (seen, bool)
	// Forget makes the next Look return what there is.
	Forget()
}

// change is an entry of the ring.
type change struct {
	rev   uint64
	bytes int
	*sluicev1.Change
}

// seen are objects by what they are and their IDs.
type seen map[mesh.Key]*sluicev1.Change

func newWatched(source watchSource, now func() time.Time, start uint64, size int) *watched {
	w := &watched{source: source, now: now, wanted: make(chan struct{}, 1), changes: newRing[change]("change", RevisionGone, start, size), opening: map[*opening]bool{}}
	w.changes.weigh = func(c change) int { return c.bytes }
	return w
}

// run looks while somebody reads, until ctx ends.
func (w *watched) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.wanted:
		}
		if !w.follow(ctx) {
			return nil
		}
	}
}

// follow looks until nobody reads; false where ctx ended.
func (w *watched) follow(ctx context.Context) bool {
	for {
		began := time.Now()
		if !w.turn() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(max(watchPause, watchShare*time.Since(began))):
		}
	}
}

// turn notes what changed, and tells whether somebody wants to know.
func (w *watched) turn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.readers == 0 && w.now().After(w.until) {
		w.have = nil
		w.source.Forget()
		w.changes.forget()
		return false
	}
	for o := range w.opening {
		if w.now().After(o.until) {
			o.cut()
			delete(w.opening, o)
		}
	}
	w.noteLocked()
	return true
}

func (w *watched) noteLocked() {
	now, fresh := w.source.Look()
	if !fresh {
		return
	}
	before := w.have
	w.have = now
	if before == nil {
		return // nobody has seen anything that this could differ from
	}
	now.share(before)
	if changes := before.to(now); len(changes) > 0 {
		w.changes.put(len(changes), func(i int, rev uint64) change { return change{rev, proto.Size(changes[i]), changes[i]} })
	}
}

// share takes what has not changed from what there was before, so that what readers still hold of
// it is there once.
func (s seen) share(before seen) {
	for k, c := range s {
		if was := before[k]; was != nil && proto.Equal(was, c) {
			s[k] = was
		}
	}
}

// to lists how later differs, in an order in which each object comes after what it names.
func (s seen) to(later seen) []*sluicev1.Change {
	var gone, come []mesh.Key
	for k := range s {
		if later[k] == nil {
			gone = append(gone, k)
		}
	}
	for k, c := range later {
		if s[k] != c { // see share
			come = append(come, k)
		}
	}
	slices.SortFunc(gone, func(a, b mesh.Key) int { return compareWatched(b, a) })
	slices.SortFunc(come, compareWatched)
	list := make([]*sluicev1.Change, 0, len(gone)+len(come))
	for _, k := range gone {
		last := proto.CloneOf(s[k])
		last.Deleted = true
		list = append(list, last)
	}
	for _, k := range come {
		list = append(list, later[k])
	}
	return list
}

// begin takes a reader in: what there is first, where since is 0, and where what follows is read.
// Whoever begins must end.
func (w *watched) begin(since uint64) (first *opening, from *place[change], err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first = &opening{until: w.now().Add(openingLimit)}
	if since == 0 {
		w.noteLocked() // what was written before the call is in it
		since = w.changes.newest()
		first.rest = seen(nil).to(w.have)
	} else if w.have == nil {
		return nil, nil, mesh.Refuse(RevisionGone, "watch without a revision", "what followed change %d is not kept any more", since)
	}
	from, err = w.changes.after(since)
	if err != nil {
		return nil, nil, err
	}
	w.readers++
	w.opening[first] = true
	signal(w.wanted)
	return first, from, nil
}

// end lets a reader go, with what it has not taken of what there was first.
func (w *watched) end(first *opening) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.opening, first)
	w.readers--
	w.until = w.now().Add(watchKept)
}
