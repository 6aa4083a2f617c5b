package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// loop keeps the kernel equal to the newest snapshot: wait, look, settle, compile,
// apply, report. Whatever changed, it compares the whole.
type loop struct {
	cluster *cluster
	status  *status
	pulse   *pulse
	log     *slog.Logger
	stopped chan struct{} // closed when run has returned

	busy     chan struct{} // holds one token while the machine is looked at or changed; taken before the cluster's lock
	machine  Machine
	bridges  []string   // the last that could be read
	local    mesh.Local // what the last plan was compiled from, besides snap
	snap     *mesh.Snapshot
	hosted   mesh.Hosting   // the node's own ports
	hostedOf *mesh.Snapshot // that hosted is of
	plan     *plan.Plan     // the last one; nobody changes it
	held     heldPorts
	routes   hostRoutes
	repair   repair

	picked   picked        // set before run
	firewall mesh.Firewall // the same
	lock     bool          // the same
	names    *naming       // the same; nil: nobody is told any
}

func newLoop(c *cluster, m Machine, s *status, log *slog.Logger) *loop {
	pulse := newPulse(c, s.snapshot, m.Echo(), log)
	pulse.knocks = newKnocks(m.Knock)
	return &loop{
		cluster: c, machine: m, status: s, log: log, pulse: pulse,
		stopped: make(chan struct{}), busy: make(chan struct{}, 1),
	}
}

const (
	fullLook   = 5 * time.Second // between two looks at a kernel that nobody says has changed
	rareLook   = 8 * time.Second // the same at most, where looking is dear: nothing stays broken for more than 10 s
	lookShare  = 20              // looking takes one in so many of the time
	retryAfter = time.Second     // after a round in which something failed
	settleMin  = 20 * time.Millisecond
	settleMax  = 100 * time.Millisecond
)

// settlePause is how long a round waits for the rest of a burst before the next
// one: as long as it took itself, so that looking costs at most half the time.
func settlePause(round time.Duration) time.Duration { return min(max(round, settleMin), settleMax) }

// lookPause is how long after a round that took so long the kernel is looked at again:
// ten thousands of virtual servers take a second, and looking is to cost 5 % of a CPU at most.
func lookPause(round time.Duration) time.Duration {
	return min(max(lookShare*round, fullLook), rareLook)
}

// run ends with ctx. What the kernel holds then stays.
func (l *loop) run(ctx context.Context) error {
	defer close(l.stopped)
	next, calm := time.NewTimer(0), time.NewTimer(0)
	defer next.Stop()
	defer calm.Stop()
	var drifted <-chan []kernel.Drift // nil while none is listened to
	var patience restraint
	for {
		var heard []kernel.Drift
		select {
		case <-ctx.Done():
			return nil
		case <-l.cluster.changed: // the state moved
		case heard = <-drifted: // somebody else touched what is ours
		case <-next.C: // a retry, or the periodic full look
		case <-calm.C:
			drifted = l.machine.Drifted()
			continue
		}
		began := l.cluster.now()
		heard = append(heard, l.overheard()...)
		done := l.round(ctx, heard)
		switch {
		case !done.complete:
			next.Reset(retryAfter)
		// Work says nothing of what looking takes; and who has a held port may let it go.
		case done.worked || done.held:
			next.Reset(fullLook)
		default:
			next.Reset(lookPause(l.cluster.now().Sub(began)))
		}
		if len(heard) > 0 {
			drifted = nil
			calm.Reset(patience.after(l.cluster.now(), done.worked))
		}
		select {
		case <-ctx.Done():
		case <-time.After(settlePause(l.cluster.now().Sub(began))):
		}
	}
}

// overheard is what was heard by now and is not taken yet: the round that begins
// deals with it too.
func (l *loop) overheard() []kernel.Drift {
	select {
	case heard := <-l.machine.Drifted():
		return heard
	default:
		return nil
	}
}

// ended is how a round ended.
type ended struct {
	complete bool // all of it could be done
	worked   bool // there was something to do
	held     bool // somebody else has a published port
}

// round makes the kernel equal to the newest snapshot once. heard is what was
// heard of others' changes before.
func (l *loop) round(ctx context.Context, heard []kernel.Drift) ended {
	// The snapshot is taken with the machine in hand: an endpoint's namespace is
	// pinned and recorded under the same lock, so no plan without it can unpin it.
	if err := l.take(ctx); err != nil {
		return ended{}
	}
	defer l.release()
	snap, refused, settling := l.cluster.settle()
	p, looking := l.compile(snap)
	settling = errors.Join(settling, l.cluster.tellHeld(l.held.now), l.routes.look(l.machine, l.cluster))
	report := l.machine.Apply(ctx, p)
	if ctx.Err() != nil {
		return ended{} // cut off in the middle: the report says nothing
	}
	l.names.follow(snap, l.local.Gone, l.machine.Path)
	err := errors.Join(settling, looking, l.cluster.flush())
	if err != nil {
		l.log.Error("a round was not complete", "revision", snap.Rev, "err", err)
	}
	for _, f := range report.Failed {
		l.log.Error("an object was not applied", "object", f.Object, "reason", f.Reason, "err", f.Err)
	}
	for _, op := range report.Done {
		l.log.Debug("applied", "op", op.String())
	}
	l.held.applied(snap, report)
	repaired := l.repair.of(snap.Rev, l.local, report)
	for _, op := range repaired {
		l.log.Info("repaired", "op", op.String(), "by", culprit(heard, op))
		l.status.events.repaired(op, culprit(heard, op))
	}
	l.status.round(outcome{snap: snap, plan: p, report: report, refused: refused, left: l.cluster.leftOut(), peers: slices.Concat(l.pulse.problems(), l.cluster.outcastProblem(), l.cluster.guestProblems(snap), l.names.problems()), err: err, repaired: len(repaired)})
	return ended{complete: err == nil && len(report.Failed) == 0, worked: len(report.Done)+len(report.Failed) > 0, held: len(l.held.now) > 0}
}

// compile is called with the machine in hand.
func (l *loop) compile(snap *mesh.Snapshot) (*plan.Plan, error) {
	bridges, err := l.machine.OwnBridges()
	if err == nil {
		l.bridges = bridges
	}
	advertised, unread := l.machine.Advertised()
	four, six, unknown := l.machine.Unrouted()
	if snap != l.hostedOf {
		l.hostedOf, l.hosted = snap, snap.Hosted(l.cluster.own.ID)
	}
	unseen := l.held.look(l.machine, snap, l.hosted)
	local := mesh.Local{
		ID: l.cluster.own.ID, Balancer: l.picked.balancer, Firewall: l.firewall, Lock: l.lock, Advertised: advertised, OwnBridges: l.bridges,
		Unrouted4: four, Unrouted6: six, Held: l.held.now, Gone: l.cluster.withGuests(l.pulse.gone(), snap),
	}
	// Looking every few seconds at what has not changed is not to cost a plan each time.
	if snap != l.snap || !reflect.DeepEqual(local, l.local) {
		l.snap, l.local, l.plan = snap, local, compile(local, snap, l.hosted)
	}
	return l.plan, errors.Join(err, unread, unknown, unseen)
}

// take takes the machine in hand, or gives up when ctx ends: who has it may hang in the kernel.
func (l *loop) take(ctx context.Context) error {
	select {
	case l.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until the machine is free: %w", ctx.Err())
	}
}

func (l *loop) release() { <-l.busy }

// withMachine runs f while no round is under way.
func (l *loop) withMachine(ctx context.Context, f func(Machine) error) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.release()
	return f(l.machine)
}

// desired is the plan of the newest snapshot.
func (l *loop) desired(ctx context.Context) (p *plan.Plan, err error) {
	err = l.withMachine(ctx, func(Machine) error {
		p, err = l.compile(l.cluster.snapshot())
		return err
	})
	return p, err
}

// diff is what a round would do now.
func (l *loop) diff(ctx context.Context) (ops []kernel.Op, err error) {
	err = l.withMachine(ctx, func(m Machine) error {
		p, err := l.compile(l.cluster.snapshot())
		if err != nil {
			return err
		}
		ops, err = m.Diff(ctx, p)
		return err
	})
	return ops, err
}

// wait returns once the kernel was made equal to revision rev or a later one, as
// far as it could be.
func (l *loop) wait(ctx context.Context, rev uint64) error {
	for {
		applied, next := l.status.applied()
		if applied >= rev {
			return nil
		}
		select {
		case <-next:
		case <-l.stopped:
			return mesh.Refuse(Stopping, "start the agent again", "the agent is stopping")
		case <-ctx.Done():
			return fmt.Errorf("wait until the kernel follows: %w", ctx.Err())
		}
	}
}
