package agent

import (
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// EventKind is a stable code of what happened.
type EventKind string

// The kinds of event.
const (
	AgentStarted     EventKind = "AgentStarted"
	NodeJoined       EventKind = "NodeJoined"
	NodeChanged      EventKind = "NodeChanged"
	NodeAlive        EventKind = "NodeAlive"     // gossip hears it
	NodeSilent       EventKind = "NodeSilent"    // gossip hears it no longer; nothing is removed for that
	NodeAgentDown    EventKind = "NodeAgentDown" // gossip does not hear it, its kernel answers
	NodeGone         EventKind = "NodeGone"      // neither gossip nor its kernel answers
	NodeLeft         EventKind = "NodeLeft"
	NetworkCreated   EventKind = "NetworkCreated"
	NetworkChanged   EventKind = "NetworkChanged"
	NetworkDeleted   EventKind = "NetworkDeleted"
	ServiceCreated   EventKind = "ServiceCreated"
	ServiceChanged   EventKind = "ServiceChanged"
	ServiceDeleted   EventKind = "ServiceDeleted"
	EndpointCreated  EventKind = "EndpointCreated"
	EndpointChanged  EventKind = "EndpointChanged"
	EndpointDraining EventKind = "EndpointDraining"
	EndpointDeleted  EventKind = "EndpointDeleted"
	ObjectRepaired   EventKind = "ObjectRepaired"
	ProblemBegan     EventKind = "ProblemBegan"
	ProblemEnded     EventKind = "ProblemEnded"
)

// The refusals of a reader.
const (
	EventsGone mesh.Reason = "EventsGone" // the revision asked for is not there any more, or never was
	TooSlow    mesh.Reason = "TooSlow"    // the reader was overtaken
)

// event is one thing that happened, as this node saw it.
type event struct {
	rev    uint64
	at     time.Time
	kind   EventKind
	object string // "service web", "host: route …"
	text   string // one line
}

const (
	eventRoom  = 4096 // events that are kept
	eventBatch = 256  // events that a reader takes at a time
	// startSpan is how many revisions one start of the agent has. A start's number is on the
	// disk before its first event, so that revisions grow over restarts and whatever the
	// clock does, and none is given out twice.
	startSpan = 1_000_000_000_000
)

// events are the last that happened, in a ring. A reader has a place in it and
// nothing else: the writer never waits for one and keeps nothing for one. Safe for
// concurrent use.
type events struct {
	now func() time.Time

	mu    sync.Mutex
	ring  []event       // that of revision first+n at n modulo its length
	first uint64        // revision of this start's first event
	next  uint64        // revision of the next event
	more  chan struct{} // closed by the next event
}

// newEvents keeps size events; start is the number of the agent's start.
func newEvents(now func() time.Time, start uint64, size int) *events {
	first := start*startSpan + 1
	return &events{now: now, ring: make([]event, size), first: first, next: first, more: make(chan struct{})}
}

// add notes that something happened now; on nil it does nothing.
func (e *events) add(kind EventKind, object, text string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ring[(e.next-e.first)%uint64(len(e.ring))] = event{rev: e.next, at: e.now(), kind: kind, object: object, text: text}
	e.next++
	close(e.more)
	e.more = make(chan struct{})
}

// oldest is the revision of the oldest event that is kept, or of the next one.
func (e *events) oldest() uint64 {
	return max(e.first, e.next-min(e.next, uint64(len(e.ring))))
}

// last returns the newest event of a kind; false where none is kept.
func (e *events) last(kind EventKind) (event, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for rev := e.next; rev > e.oldest(); rev-- {
		if found := e.ring[(rev-1-e.first)%uint64(len(e.ring))]; found.kind == kind {
			return found, true
		}
	}
	return event{}, false
}

// eventReader is a place in the ring. For one goroutine at a time.
type eventReader struct {
	events *events
	last   uint64 // revision of the last event that was read
}

// after begins behind the event of a revision; 0 is before all that are kept. It
// refuses where the event that follows is not kept: no reader misses one unknowingly.
func (e *events) after(rev uint64) (*eventReader, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	oldest, newest := e.oldest(), e.next-1
	switch {
	case rev == 0:
		return &eventReader{e, oldest - 1}, nil
	case rev > newest:
		return nil, mesh.Refuse(EventsGone, "ask without a revision", "the newest event here has revision %d, there never was %d", newest, rev)
	case rev+1 < oldest:
		return nil, mesh.Refuse(EventsGone, "look at sluice status for how things are, and ask without a revision",
			"what followed event %d is not kept any more, the oldest event still there has revision %d", rev, oldest)
	}
	return &eventReader{e, rev}, nil
}

// read takes the events that follow, at most eventBatch; where there are none, more
// is closed by the next one. A reader that was overtaken is refused.
func (r *eventReader) read() (batch []event, more <-chan struct{}, err error) {
	e := r.events
	e.mu.Lock()
	defer e.mu.Unlock()
	if oldest := e.oldest(); r.last+1 < oldest {
		return nil, nil, mesh.Refuse(TooSlow, "look at sluice status for how things are, and ask again",
			"events came faster than they were read: %d is the last that was, %d the oldest still there", r.last, oldest)
	}
	for len(batch) < eventBatch && r.last+1 < e.next {
		r.last++
		batch = append(batch, e.ring[(r.last-e.first)%uint64(len(e.ring))])
	}
	return batch, e.more, nil
}

// newest is the revision of the newest event.
func (e *events) newest() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.next - 1
}
