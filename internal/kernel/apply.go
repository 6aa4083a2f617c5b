package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// machine is what the steps act on: the real kernel, or the fake.
type machine interface {
	// sandboxes lists where namespaces are or were, the host's included.
	sandboxes() (map[string]place, error)
	// observe fills in what s looks at. want says what is worth asking for.
	observe(s step, want *plan.Sandbox) (observed, error)
	do(op Op) error
}

// place is where a sandbox is mounted. A husk is one that lost its namespace: what
// a process leaves that died while it mounted or unmounted, and a reboot.
type place struct {
	kind plan.Kind
	husk bool
}

// step is one kernel subsystem's place in the order of a round.
type step string

// The subsystems. The administrator's own rules come first, before anything answers.
// Links come next in all sandboxes, since a veth has an end in
// two of them; then the others, sandbox by sandbox, so that what makes a port
// answer (the host's table) comes last.
const (
	stepUser   step = "user"
	stepLock   step = "lock"
	stepLinks  step = "links"
	stepSysctl step = "sysctl"
	stepAddr   step = "addr"
	stepNeigh  step = "neigh"
	stepFDB    step = "fdb"
	stepRule   step = "rule"
	stepRoute  step = "route"
	stepNFT    step = "nft"
	stepIPVS   step = "ipvs"
	stepFlows  step = "flows"
	stepPass   step = "passage"
)

// laterSteps are what is done in one sandbox when all have their links. In our own
// the firewall comes first: nothing is forwarded before there is one, as no address or
// route is there yet. Only what balances comes before: where rules that balance give way
// to IPVS, it is whole and has its settings when they go. In the host
// the firewall comes last (see round.hostRules), and an endpoint's own is not ours to look at.
func laterSteps(kind plan.Kind) []step {
	wiring := []step{stepSysctl, stepAddr, stepNeigh, stepFDB, stepRoute}
	switch kind {
	case plan.KindHost:
		return append(wiring, stepPass, stepNFT)
	case plan.KindEndpoint:
		// A rule to a table that is empty yet changes nothing; where the default route moves, all that
		// open connections go by is there.
		return []step{stepSysctl, stepAddr, stepNeigh, stepFDB, stepRule, stepRoute}
	default:
		return append(append([]step{stepIPVS, stepSysctl, stepNFT}, wiring[1:]...), stepFlows)
	}
}

// diff is pure: what it takes to get from have to want in one subsystem.
func (s step) diff(want *plan.Sandbox, have observed) []Op {
	switch s {
	case stepUser:
		return diffUser(want, have.user)
	case stepLock:
		return diffLock(want, have.lock)
	case stepLinks:
		return diffLinks(want, have.Links)
	case stepSysctl:
		return diffSysctls(want.Name, want.Sysctls, have.settings)
	case stepAddr:
		return diffAddrs(want, have.Addrs)
	case stepNeigh:
		return diffKeyed(want.Name, want.Neighs, have.Neighs, neighKey)
	case stepFDB:
		return diffKeyed(want.Name, want.FDB, have.FDB, fdbKey)
	case stepRule:
		return diffKeyed(want.Name, want.Rules, have.Rules, ruleKey)
	case stepRoute:
		return diffKeyed(want.Name, want.Routes, have.Routes, routeKey)
	case stepNFT:
		return diffNFT(want.Name, want.Tables, have.tables)
	case stepIPVS:
		return diffIPVS(want, have)
	case stepFlows:
		return append(diffFlows(want, have.Flows), diffZones(want, have.Zones)...)
	case stepPass:
		return diffPassages(want.Name, want.Passages, have.foreign)
	default:
		return nil
	}
}

// round is one walk from what a machine holds to what a plan says.
type round struct {
	ctx    context.Context // kept, as a round lives within one call
	m      machine
	dry    bool // only collect the ops
	report Report
	late   []Op // deletions: after everything new is in place, in reverse order
	lost   map[string]bool
	bare   map[string]bool // sandboxes whose rules could not be loaded
}

// newRound is one that has not begun.
func newRound(ctx context.Context, m machine) *round {
	return &round{ctx: ctx, m: m, lost: map[string]bool{}, bare: map[string]bool{}}
}

func apply(ctx context.Context, m machine, want *plan.Plan) Report {
	r := newRound(ctx, m)
	r.walk(want)
	return r.report
}

func diff(ctx context.Context, m machine, want *plan.Plan) ([]Op, error) {
	r := newRound(ctx, m)
	r.dry = true
	r.walk(want)
	errs := make([]error, len(r.report.Failed))
	for i, f := range r.report.Failed {
		errs[i] = f
	}
	return r.report.Done, errors.Join(errs...)
}

func (r *round) walk(want *plan.Plan) {
	have, err := r.m.sandboxes()
	if err != nil {
		r.fail("namespaces", err)
		return
	}
	for _, s := range want.Sandboxes {
		if at, ok := have[s.Name]; !ok || at.husk {
			r.run(Op{Add, s.Name, Namespace{s.Kind}})
		}
	}
	for _, s := range want.Sandboxes {
		if s.Kind == plan.KindHost {
			r.step(stepUser, s)
			r.step(stepLock, s)
		}
	}
	// What ports of a bridge may say is known before the first of them is there.
	for _, s := range want.Sandboxes {
		if bridges(s) {
			r.step(stepNFT, s)
		}
	}
	for _, s := range want.Sandboxes {
		r.step(stepLinks, s)
	}
	r.hostRules(want)
	for _, s := range want.Sandboxes {
		for _, step := range laterSteps(s.Kind) {
			if step != stepNFT || !bridges(s) {
				r.step(step, s)
			}
		}
	}
	slices.Reverse(r.late)
	for _, op := range r.late {
		r.run(op)
	}
	r.strays(want, have)
}

// bridges tells whether a sandbox of ours is there for a bridge, whose ports speak as soon as they are up.
func bridges(s *plan.Sandbox) bool {
	return s.Kind == plan.KindNetwork && slices.ContainsFunc(s.Links, func(l plan.Link) bool { return l.Kind == plan.LinkBridge })
}

// hostRules loads the host's tables where there are none, before anything else:
// what keeps networks apart and masquerades is there before the first packet can be
// forwarded. They come without elements, as no port is captured before what is
// behind it is ready; with all of them where somebody took only the tables away.
func (r *round) hostRules(want *plan.Plan) {
	for _, s := range want.Sandboxes {
		if s.Kind != plan.KindHost || r.dry {
			continue
		}
		have, err := r.m.observe(stepNFT, s)
		if err != nil {
			continue // told when it is the host's turn
		}
		for _, op := range stepNFT.diff(s, have) {
			load, ok := op.Object.(TableLoad)
			if !ok || op.Verb != Add {
				continue
			}
			whole := r.readyBehind(want)
			if !whole {
				load.Table = load.Table.Bare()
			}
			r.userFirst(s)
			r.run(Op{Add, s.Name, load})
			if whole && r.bare[s.Name] { // what the kernel refused may be an element
				delete(r.bare, s.Name)
				r.run(Op{Add, s.Name, TableLoad{load.Table.Bare()}})
			}
		}
	}
}

// readyBehind tells whether all is there that the host's rules lead to, whose links were seen to.
func (r *round) readyBehind(want *plan.Plan) bool {
	look := newRound(r.ctx, r.m)
	look.dry = true
	for _, s := range want.Sandboxes {
		for _, step := range laterSteps(s.Kind) {
			if s.Kind == plan.KindHost && step == stepNFT {
				continue
			}
			if look.step(step, s); len(look.report.Done)+len(look.report.Failed) > 0 {
				return false
			}
		}
	}
	return r.ctx.Err() == nil && len(r.report.Failed) == 0
}

// userFirst looks at the administrator's rules again, as late as can be before
// a table of ours comes: all may have been flushed since the round began.
func (r *round) userFirst(host *plan.Sandbox) {
	told := func(f Failure) bool { return strings.HasPrefix(f.Object, host.Name+": user") }
	if !r.dry && !slices.ContainsFunc(r.report.Failed, told) {
		r.step(stepUser, host)
	}
}

// step brings one subsystem of one sandbox to what the plan says.
func (r *round) step(s step, want *plan.Sandbox) {
	if r.lost[want.Name] || r.bare[want.Name] || r.ctx.Err() != nil {
		return
	}
	have, err := r.m.observe(s, want)
	if errors.Is(err, errNoSandbox) && r.dry {
		have, err = observed{}, nil // it would be made
	}
	if err != nil {
		r.fail(fmt.Sprintf("%s: %s", want.Name, s), err)
		return
	}
	for _, op := range s.diff(want, have) {
		if op.Verb == Delete {
			r.late = append(r.late, op)
			continue
		}
		if _, ok := op.Object.(TableLoad); ok && want.Kind == plan.KindHost {
			r.userFirst(want)
		}
		r.run(op)
	}
}

// strays removes what belongs to no sandbox of the plan: namespaces of ours and
// husks, and in the host all that carries our mark where the plan says nothing of it.
func (r *round) strays(want *plan.Plan, have map[string]place) {
	names := make([]string, 0, len(have))
	for name := range have {
		if !slices.ContainsFunc(want.Sandboxes, func(s *plan.Sandbox) bool { return s.Name == name }) {
			names = append(names, name)
		}
	}
	// From the host inwards, as deletions go.
	slices.SortFunc(names, func(a, b string) int {
		ka, kb := plan.Sandbox{Name: a, Kind: have[a].kind}, plan.Sandbox{Name: b, Kind: have[b].kind}
		return plan.CompareSandbox(&kb, &ka)
	})
	for _, name := range names {
		if have[name].kind == plan.KindHost {
			r.clear(&plan.Sandbox{Name: name, Kind: plan.KindHost})
			continue
		}
		r.run(Op{Delete, name, Namespace{have[name].kind}})
	}
}

// clear takes everything of ours out of a sandbox that stays.
func (r *round) clear(empty *plan.Sandbox) {
	r.late = nil
	for _, s := range append([]step{stepUser, stepLock, stepLinks}, laterSteps(empty.Kind)...) {
		r.step(s, empty)
	}
	slices.Reverse(r.late)
	for _, op := range r.late {
		r.run(op)
	}
}

func (r *round) run(op Op) {
	if r.lost[op.Sandbox] {
		return
	}
	if r.dry {
		r.report.Done = append(r.report.Done, op)
		return
	}
	err := r.ctx.Err()
	if err == nil {
		began := time.Now()
		err = r.m.do(op)
		r.report.Writing += time.Since(began)
	}
	if err == nil {
		r.report.Done = append(r.report.Done, op)
		return
	}
	r.fail(fmt.Sprintf("%s: %s", op.Sandbox, op.Object), fmt.Errorf("%s: %w", op.Verb, err))
	if op.Verb != Add {
		return
	}
	switch op.Object.(type) {
	case Namespace:
		r.lost[op.Sandbox] = true // one failure says it all
	case TableLoad:
		r.bare[op.Sandbox] = true // without rules nothing more is wired that would be forwarded
	}
}

func (r *round) fail(object string, err error) {
	r.report.Failed = append(r.report.Failed, Failure{Object: object, Reason: reasonOf(err), Err: err})
}

// errNoSandbox says that a namespace is not there.
var errNoSandbox = errors.New("the sandbox does not exist")

func reasonOf(err error) plan.Reason {
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason
	case errors.Is(err, errNoSandbox):
		return plan.SandboxGone
	case errors.Is(err, syscall.EOPNOTSUPP):
		return plan.FeatureMissing
	default:
		return plan.KernelRefused
	}
}

func diffIPVS(want *plan.Sandbox, have observed) []Op {
	var ops []Op
	if want.Timeouts != (plan.Timeouts{}) && want.Timeouts != have.Timeouts {
		ops = append(ops, Op{Replace, want.Name, want.Timeouts})
	}
	// Backends are deleted before their servers, which reversing the order of deletions gives.
	ops = append(ops, diffKeyed(want.Name, want.Virtual, have.Virtual, virtualKey)...)
	orders := diffOrder(want, have.Backends)
	for _, o := range orders {
		ops = append(ops, Op{Replace, want.Name, o})
	}
	return append(ops, withoutOrdered(diffKeyed(want.Name, want.Backends, have.Backends, backendKey), orders)...)
}

type serverKey struct {
	mark    uint32
	dialled plan.Dialled
	family  plan.Family
}

func virtualKey(v plan.VirtualServer) serverKey { return serverKey{v.Mark, v.Dialled, v.Family} }

func backendKey(b plan.Backend) plan.Backend {
	b.Weight = 0
	return b
}
