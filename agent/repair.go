package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// repair tells what a round put back from what it brought anew: the plan is the
// one of the round before, so somebody else made the difference. For one
// goroutine at a time.
type repair struct {
	began  bool
	rev    uint64
	local  string          // what else than the snapshot the plan was compiled from, in words
	failed map[string]bool // objects that the round before could not do
}

// of returns the ops of a round that repaired something. rev and local are
// what the round's plan was compiled from.
func (r *repair) of(rev uint64, local mesh.Local, report kernel.Report) []kernel.Op {
	before := *r
	r.began, r.rev, r.local, r.failed = true, rev, fmt.Sprintf("%+v", local), map[string]bool{}
	for _, f := range report.Failed {
		r.failed[f.Object] = true
	}
	if !before.began || before.rev != rev || before.local != r.local {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(report.Done), func(op kernel.Op) bool { return before.late(op) })
}

// late tells whether an op only makes up for one that failed before: of the
// object itself, or of the sandbox that it is in.
func (r *repair) late(op kernel.Op) bool {
	inSandbox := op.Sandbox + ": "
	if r.failed[inSandbox+op.Object.String()] {
		return true
	}
	for object := range r.failed {
		if strings.HasPrefix(object, inSandbox+"namespace ") {
			return true
		}
	}
	return false
}

// culprit names who likely made a repair necessary.
func culprit(heard []kernel.Drift, op kernel.Op) string {
	if by := kernel.Culprit(heard, op); by != "" {
		return by
	}
	return "unknown"
}

// restraint keeps the agent from fighting: where what is repaired is undone at
// once, or a repair itself makes the next difference, rounds come at most once in
// restraintMost instead of several times a second.
type restraint struct {
	pause time.Duration
	last  time.Time
}

const (
	restraintFirst = 125 * time.Millisecond
	restraintMost  = time.Second
)

// after is how long to hear of no drift after a round that a drift caused. worked
// tells whether there was something to do.
func (r *restraint) after(now time.Time, worked bool) time.Duration {
	calm := now.Sub(r.last) > 2*restraintMost
	r.last = now
	switch {
	case !worked:
		r.pause = 0
	case calm || r.pause == 0:
		r.pause = restraintFirst
	default:
		r.pause = min(2*r.pause, restraintMost)
	}
	return r.pause
}
