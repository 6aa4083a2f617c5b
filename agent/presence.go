package agent

import "time"

// presence is how another node is seen from here: its agent by gossip, its kernel by
// what it answers through the tunnel. The data plane does not need the agent, so
// silence of one of them alone removes nothing.
//
//	gossip   kernel           presence
//	hears    any              alive
//	silent   answers          agent-down
//	silent   does not answer  gone: its endpoints are no backends here
//	silent   not known        silent; one that was gone stays so
type presence string

const (
	presenceAlive     presence = "alive"
	presenceAgentDown presence = "agent-down"
	presenceGone      presence = "gone"
	presenceSilent    presence = "silent"
)

// next is the presence that follows from what is known now.
func (p presence) next(gossip observation, kernel kernelAnswer) presence {
	switch {
	case gossip.alive:
		return presenceAlive
	case kernel == kernelAnswers:
		return presenceAgentDown
	case kernel == kernelMute || p == presenceGone:
		return presenceGone
	default:
		return presenceSilent
	}
}

// kernelAnswer is what a node's kernel was last found to do.
type kernelAnswer string

const (
	kernelUnknown kernelAnswer = "" // not asked often enough yet, or it cannot be asked from here
	kernelAnswers kernelAnswer = "answers"
	kernelMute    kernelAnswer = "mute" // echoMissed echoes in a row were not answered
)

const (
	echoPeriod = time.Second            // between two echoes that are answered
	echoWait   = 200 * time.Millisecond // for an answer; the next echo follows at once where none came
	echoMissed = 3                      // so many in a row: the kernel does not answer
	echoOpen   = 16                     // so many of the newest may still be answered, however late
)

// beat is what asking one kernel has shown so far. Each method gives the value that
// follows; none does anything.
type beat struct {
	answer kernelAnswer
	since  time.Time // of answer, or of fault while there is one
	fault  error     // why it could not be asked the last time

	newest  uint16    // sequence number of the last echo
	open    uint16    // of the newest echoes so many count if they are answered
	waiting bool      // the newest one was neither answered nor missed yet
	missed  int       // in a row
	due     time.Time // when it is judged, or, where none waits, when to ask again
	again   time.Time // when to ask again if it is answered
}

// ready tells whether it is time to ask.
func (b beat) ready(now time.Time) bool { return !b.waiting && !now.Before(b.due) }

// asked follows when the echo after newest was sent. pause is the time to the next one.
func (b beat) asked(now time.Time, pause time.Duration) beat {
	if b.fault != nil {
		b.fault, b.since = nil, now
	}
	b.newest++
	b.open = min(b.open+1, echoOpen)
	b.waiting, b.due, b.again = true, now.Add(echoWait), now.Add(pause)
	return b
}

// answered follows when an answer came. One that answers nothing which was asked lately
// changes nothing.
func (b beat) answered(now time.Time, sequence uint16) beat {
	behind := b.newest - sequence
	if behind >= b.open {
		return b
	}
	b.open, b.missed = behind, 0
	if behind == 0 {
		b.waiting, b.due = false, b.again
	}
	return b.found(kernelAnswers, now)
}

// judged follows when time has passed: the newest echo is missed where its time is over.
func (b beat) judged(now time.Time) beat {
	if !b.waiting || now.Before(b.due) {
		return b
	}
	b.waiting = false
	b.missed = min(b.missed+1, echoMissed)
	if b.missed < echoMissed {
		b.due = now
		return b
	}
	b.due = b.again
	return b.found(kernelMute, now)
}

// failed follows when nothing could be asked: what was known before proves nothing now.
func (b beat) failed(now time.Time, fault error, pause time.Duration) beat {
	if b.fault == nil {
		b.since = now
	}
	b.answer, b.fault = kernelUnknown, fault
	b.open, b.missed, b.waiting = 0, 0, false
	b.due = now.Add(pause)
	return b
}

// afresh follows when gossip gives the node up: only an echo that is sent from now on shows that its
// kernel is mute too. A link that comes back at this moment is back for both, and what was missed
// before is no proof any more.
func (b beat) afresh(now time.Time) beat {
	if b.fault != nil {
		return b
	}
	if b.answer == kernelMute {
		b = b.found(kernelUnknown, now)
	}
	b.missed = min(b.missed, echoMissed-1)
	b.waiting, b.due = false, now
	return b
}

func (b beat) found(answer kernelAnswer, now time.Time) beat {
	if b.answer != answer {
		b.answer, b.since = answer, now
	}
	return b
}
