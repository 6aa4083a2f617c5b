package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// status is what the last round reached: the answer to "is it programmed?" for
// every object. Safe for concurrent use.
type status struct {
	now    func() time.Time
	events *events

	mu       sync.Mutex
	last     outcome
	at       time.Time
	repairs  uint64
	problems map[problemKey]problem
	next     chan struct{} // closed by the next round
}

// outcome is one round: what was wished, and what could not be.
type outcome struct {
	snap    *mesh.Snapshot
	plan    *plan.Plan
	report  kernel.Report
	refused map[mesh.EndpointID]error // no room for them
	left    map[mesh.Key]error        // stored records that cannot be used
	peers   []problem                 // how other nodes are seen
	err     error                     // of the round itself: disk, or a look at the host

	repaired int // objects that somebody else had changed
}

// problem is one object that is not programmed, or not as wished.
type problem struct {
	problemKey
	detail string
	since  time.Time
}

type problemKey struct{ object, reason string }

func newStatus(now func() time.Time, e *events) *status {
	return &status{
		now: now, events: e, last: outcome{snap: (&mesh.State{}).Snapshot(), plan: &plan.Plan{}},
		problems: map[problemKey]problem{}, next: make(chan struct{}),
	}
}

// round takes in an outcome. A problem that was there before keeps its time.
func (s *status) round(o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.at = o, s.now()
	s.repairs += uint64(o.repaired)
	before := s.problems
	s.problems = map[problemKey]problem{}
	for _, p := range o.problems() {
		p.since = s.at
		if have, ok := before[p.problemKey]; ok {
			p.since = have.since
		}
		s.problems[p.problemKey] = p
	}
	s.events.problems(before, s.problems)
	close(s.next)
	s.next = make(chan struct{})
}

// problems are what the compilers left out, what the kernel refused, what found no
// room, and what could not be read.
func (o outcome) problems() []problem {
	var list []problem
	add := func(object, reason, detail string) {
		list = append(list, problem{problemKey: problemKey{object, reason}, detail: detail})
	}
	for _, l := range o.plan.Left {
		add(l.Object, string(l.Reason), l.Detail)
	}
	for _, f := range o.report.Failed {
		add(f.Object, string(f.Reason), f.Err.Error())
	}
	for id, err := range o.refused {
		object := "endpoint " + nameOf(o.snap, id)
		if id == "" {
			object = "this node"
		}
		add(object, string(mesh.ReasonOf(err)), err.Error())
	}
	for k, err := range o.left {
		add(fmt.Sprintf("record %s %s", k.Kind, k.ID), string(cmp.Or(mesh.ReasonOf(err), mesh.BadRecord)), err.Error())
	}
	list = append(append(list, o.peers...), routeProblems(o.snap)...)
	if o.err != nil {
		add("agent", string(plan.KernelRefused), o.err.Error())
	}
	return list
}

func nameOf(snap *mesh.Snapshot, id mesh.EndpointID) string {
	if e := endpointByID(snap, id); e != nil {
		return e.Name
	}
	return string(id)
}

// applied is the revision that the kernel was last made equal to; 0 before the
// first round. next is closed by the round after.
func (s *status) applied() (rev uint64, next <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.snap.Rev, s.next
}

// snapshot is what the last round was about; empty before the first.
func (s *status) snapshot() *mesh.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.snap
}

// view is a copy of the status.
type view struct {
	outcome
	applied  time.Time // zero before the first round
	repairs  uint64    // objects put back since the agent started
	problems []problem // sorted by object
}

func (s *status) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return view{
		outcome: s.last, applied: s.at, repairs: s.repairs,
		problems: slices.SortedFunc(maps.Values(s.problems), func(a, b problem) int {
			return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.reason, b.reason))
		}),
	}
}

// endpoint tells why an endpoint cannot be used on this node, as of the last
// round; nil where it can.
func (s *status) endpoint(id mesh.EndpointID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.endpoint(id)
}

func (o outcome) endpoint(id mesh.EndpointID) error {
	if err := o.refused[id]; err != nil {
		return err
	}
	e := endpointByID(o.snap, id)
	if e == nil {
		return mesh.Refuse(mesh.NotFound, "attach it again", "endpoint %s was removed meanwhile", id)
	}
	for _, l := range o.plan.Left {
		if l.Object == "endpoint "+e.Name {
			return mesh.Refuse(NotUsable, "see sluice status", "%s was left out (%s: %s)", l.Object, l.Reason, l.Detail)
		}
	}
	for _, f := range o.report.Failed {
		if concerns(f, e) {
			return mesh.Refuse(NotUsable, "see sluice status and the agent's log", "the kernel refused %s (%v)", f.Object, f.Err)
		}
	}
	return nil
}

// concerns tells whether a failed object is one that the endpoint needs: in its
// own namespace, or the other end of one of its links.
func concerns(f kernel.Failure, e *mesh.Endpoint) bool {
	sandbox, object, _ := strings.Cut(f.Object, ": ")
	if sandbox == plan.EndpointSandbox(string(e.ID)) {
		return true
	}
	return slices.ContainsFunc(e.Attached, func(a mesh.Attachment) bool { return farEnd(object, e, a) })
}
