package agent

import "time"

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

// event is one thing that happened, as this node saw it.
type event struct {
	rev    uint64
	at     time.Time
	kind   EventKind
	object string // "service web", "host: route …"
	text   string // one line
}

// events are the last that happened. Safe for concurrent use.
type events struct {
	*ring[event]
	now func() time.Time
}

// newEvents keeps size events; start is the number of the agent's start.
func newEvents(now func() time.Time, start uint64, size int) *events {
	return &events{newRing[event]("event", EventsGone, start, size), now}
}

// add notes that something happened now; on nil it does nothing.
func (e *events) add(kind EventKind, object, text string) {
	if e == nil {
		return
	}
	e.put(1, func(_ int, rev uint64) event {
		return event{rev: rev, at: e.now(), kind: kind, object: object, text: text}
	})
}

// last returns the newest event of a kind; false where none is kept.
func (e *events) last(kind EventKind) (event, bool) {
	return e.ring.last(func(have event) bool { return have.kind == kind })
}
