package kernel_test

import (
	"slices"
	"syscall"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// first is the place of the first op in a sandbox that f is true of, and last of the last.
func first(ops []kernel.Op, sandbox string, f func(kernel.Op) bool) int {
	return slices.IndexFunc(ops, func(op kernel.Op) bool { return op.Sandbox == sandbox && f(op) })
}

func is[T any](op kernel.Op) bool { _, ok := op.Object.(T); return ok }

// From an empty machine on there is no moment in which something is forwarded
// that rules would not let pass, and no port is captured before what is behind it.
func TestOrderLeavesNoGap(t *testing.T) {
	p := plans(t)["three networks"]
	f := kernel.NewFake()
	for _, e := range endpoints(p) {
		f.Pin(e)
	}
	ops := f.Apply(t.Context(), p).Done
	hostRules := first(ops, plan.HostSandbox, is[kernel.TableLoad])
	for _, s := range p.Sandboxes {
		routes := first(ops, s.Name, is[plan.Route])
		if s.Kind == plan.KindHost || routes < 0 {
			continue
		}
		if hostRules < 0 || routes < hostRules {
			t.Errorf("%s has routes (op %d) before the host has rules (op %d)", s.Name, routes, hostRules)
		}
		rules := first(ops, s.Name, is[kernel.TableLoad])
		if s.Kind != plan.KindEndpoint && (rules < 0 || rules > routes) {
			t.Errorf("%s has routes (op %d) before rules (op %d)", s.Name, routes, rules)
		}
		if addrs := first(ops, s.Name, is[plan.Addr]); s.Kind == plan.KindEndpoint {
			for _, other := range p.Sandboxes {
				if other.Kind == plan.KindNetwork && first(ops, other.Name, is[plan.Route]) > addrs {
					t.Errorf("%s has addresses before %s is ready", s.Name, other.Name)
				}
			}
		}
	}
	if load, ok := ops[hostRules].Object.(kernel.TableLoad); !ok || slices.ContainsFunc(load.Table.Sets, func(s *plan.Set) bool { return len(s.Elements) > 0 }) {
		t.Error("the host's first rules should come without elements")
	}
	if last := ops[len(ops)-1]; last.Sandbox != plan.HostSandbox || !is[kernel.ElementChange](last) {
		t.Errorf("the last op should be what makes the ports answer, it is %s", last)
	}
}

// Where only the host's rules were taken away, they come back whole and first: ports
// answer again before anything else is looked at.
func TestFlushedHostIsLoadedAtOnce(t *testing.T) {
	p := plans(t)["three networks"]
	host := slices.IndexFunc(p.Sandboxes, func(s *plan.Sandbox) bool { return s.Kind == plan.KindHost })
	f := kernel.NewFake()
	for _, e := range endpoints(p) {
		f.Pin(e)
	}
	f.Apply(t.Context(), p)
	flushed := *p.Sandboxes[host]
	flushed.Tables = nil
	without := &plan.Plan{Sandboxes: slices.Clone(p.Sandboxes)}
	without.Sandboxes[host] = &flushed
	f.Apply(t.Context(), without)
	ops := f.Apply(t.Context(), p).Done
	if len(ops) != len(p.Sandboxes[host].Tables) {
		t.Errorf("%d ops, want one for each table: %v", len(ops), ops)
	}
	for _, op := range ops {
		if op.Sandbox != plan.HostSandbox || !is[kernel.TableLoad](op) {
			t.Errorf("%s, want the host's tables only", op)
		}
	}
}

// Where a sandbox's rules are refused nothing in it is wired that they would have judged; what
// was wrong ends with the next round.
func TestNothingIsWiredWithoutRules(t *testing.T) {
	p := plans(t)["three networks"]
	for _, s := range p.Sandboxes {
		if len(s.Tables) == 0 {
			continue
		}
		f := kernel.NewFake()
		for _, e := range endpoints(p) {
			f.Pin(e)
		}
		f.Fault = func(op kernel.Op) error {
			if op.Sandbox == s.Name && is[kernel.TableLoad](op) {
				return syscall.EEXIST
			}
			return nil
		}
		wired := func(op kernel.Op) bool {
			return is[plan.Addr](op) || is[plan.Route](op) || is[plan.Neigh](op) || is[plan.FDBEntry](op)
		}
		for range 2 {
			if i := first(f.Apply(t.Context(), p).Done, s.Name, wired); i >= 0 {
				t.Errorf("%s is wired without rules", s.Name)
			}
		}
		f.Fault = nil
		mustApply(t, f, p)
	}
}

// A host whose rules were taken away and cannot come back with all their elements gets them without.
func TestHostIsClosedWithoutElements(t *testing.T) {
	p := plans(t)["three networks"]
	host := slices.IndexFunc(p.Sandboxes, func(s *plan.Sandbox) bool { return s.Kind == plan.KindHost })
	f := kernel.NewFake()
	for _, e := range endpoints(p) {
		f.Pin(e)
	}
	mustApply(t, f, p)
	flushed := *p.Sandboxes[host]
	flushed.Tables = nil
	without := &plan.Plan{Sandboxes: slices.Clone(p.Sandboxes)}
	without.Sandboxes[host] = &flushed
	mustApply(t, f, without)
	f.Fault = func(op kernel.Op) error {
		load, ok := op.Object.(kernel.TableLoad)
		if ok && slices.ContainsFunc(load.Table.Sets, func(s *plan.Set) bool { return len(s.Elements) > 0 }) || is[kernel.ElementChange](op) {
			return syscall.EEXIST
		}
		return nil
	}
	if report := f.Apply(t.Context(), p); len(report.Failed) == 0 || first(report.Done, plan.HostSandbox, is[kernel.TableLoad]) < 0 {
		t.Errorf("the host has no rules: done %v, failed %v", report.Done, report.Failed)
	}
	f.Fault = nil
	mustApply(t, f, p)
}
