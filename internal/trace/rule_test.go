package trace_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
)

// What leads the reply of an endpoint with several networks out, spoiled in the kernel, breaks the
// reply; what leads others does not.
func TestRulesSpoiled(t *testing.T) {
	nodes := cluster(t, "both modes")
	hops, err := trace.Walk(ask(nodes, 1, "tcp", 8081))
	if err != nil {
		t.Fatal(err)
	}
	ep := hops[len(hops)-2].Sandbox // the reply's
	rules := nodes[0].Plan.Sandbox(ep, plan.KindEndpoint).Rules
	own := rules[0].From
	i := slices.IndexFunc(rules, func(r plan.Rule) bool { return r.From.Is4() && r.From != own })
	other := rules[i].From
	table := plan.OwnTable(own)
	for name, c := range map[string]struct {
		spoil  func(*plan.Sandbox)
		broken string
	}{
		"nothing": {func(*plan.Sandbox) {}, ""},
		"rule": {func(s *plan.Sandbox) {
			s.Rules = slices.DeleteFunc(s.Rules, func(r plan.Rule) bool { return r.From == own && r.Table == table })
		}, "9"},
		"rule that leads elsewhere": {func(s *plan.Sandbox) {
			for i, r := range s.Rules {
				if r.From == own && r.Table == table {
					s.Rules[i].Table = plan.OwnTable(other)
				}
			}
		}, "9"},
		"rule of another address": {func(s *plan.Sandbox) {
			s.Rules = slices.DeleteFunc(s.Rules, func(r plan.Rule) bool { return r.From == other })
		}, ""},
		"route": {func(s *plan.Sandbox) {
			s.Routes = slices.DeleteFunc(s.Routes, func(r plan.Route) bool { return r.Table == table })
		}, "9"},
		"route of the other table": {func(s *plan.Sandbox) {
			s.Routes = slices.DeleteFunc(s.Routes, func(r plan.Route) bool { return r.Table == plan.OwnTable(other) })
		}, ""},
	} {
		f := kernel.NewFake()
		held := cluster(t, "both modes")[0].Plan
		for _, s := range held.Sandboxes {
			if s.Kind == plan.KindEndpoint {
				f.Pin(s.Name)
			}
		}
		c.spoil(held.Sandbox(ep, plan.KindEndpoint))
		if report := f.Apply(t.Context(), held); len(report.Failed) > 0 {
			t.Fatal(report.Failed)
		}
		ops, err := f.Diff(t.Context(), nodes[0].Plan)
		if err != nil {
			t.Fatal(err)
		}
		if len(ops) == 0 && name != "nothing" {
			t.Errorf("%s: the kernel does not differ", name)
		}
		q := ask(nodes, 1, "tcp", 8081)
		got, _, _ := strings.Cut(brokenHops(explain(t, q, ops)), " ")
		if got != c.broken {
			t.Errorf("%s: broken is hop %q, want %q; the kernel differs by %v", name, got, c.broken, ops)
		}
	}
	// Where the plan has no rule for the reply's address, one of ours that is there may lead it anywhere.
	alone := cluster(t, "hosted")
	stray := plan.Rule{Priority: rules[0].Priority, From: replyFrom(t, alone), Table: table}
	op := kernel.Op{Verb: kernel.Delete, Sandbox: endpointOf(alone), Object: stray}
	if got, _, _ := strings.Cut(brokenHops(explain(t, ask(alone, 1, "tcp", 8080), []kernel.Op{op})), " "); got != "9" {
		t.Errorf("with a stray rule, broken is hop %q", got)
	}
}

func endpointOf(nodes []trace.Node) string {
	sandboxes := nodes[0].Plan.Sandboxes
	return sandboxes[slices.IndexFunc(sandboxes, func(s *plan.Sandbox) bool { return s.Kind == plan.KindEndpoint })].Name
}

func replyFrom(t *testing.T, nodes []trace.Node) netip.Addr {
	t.Helper()
	for _, a := range nodes[0].Plan.Sandbox(endpointOf(nodes), plan.KindEndpoint).Addrs {
		if a.Prefix.Addr().Is4() {
			return a.Prefix.Addr()
		}
	}
	t.Fatal("the endpoint has no address")
	return netip.Addr{}
}
