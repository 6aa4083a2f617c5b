package kernel_test

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// A bridge whose rules the kernel does not take has no port that is up: without them an endpoint
// could say that it is another.
func TestBridgeWithoutRulesIsClosed(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		defer k.Apply(t.Context(), &plan.Plan{})
		const port = "sl-p00000000001"
		p := &plan.Plan{}
		s, e := p.Sandbox(plan.BridgeSandbox(bridgeNetwork), plan.KindNetwork), p.Sandbox(bridgedEndpoint(1), plan.KindEndpoint)
		s.Links = append(
			s.Links,
			plan.Link{Name: plan.Bridge, Kind: plan.LinkBridge, MTU: 1500},
			plan.Link{Name: port, Kind: plan.LinkVeth, MTU: 1500, Master: plan.Bridge, Peer: plan.Peer{Sandbox: e.Name, Link: "slb1"}},
		)
		e.Links = append(e.Links, plan.Link{Name: "slb1", Kind: plan.LinkVeth, MTU: 1500, Peer: plan.Peer{Sandbox: s.Name, Link: port}})
		rules := s.Table("bridge").Chain("ports", "type filter hook prerouting priority -300; policy drop;")
		rules.Rule("there is no such rule")
		p.Sort()
		pinWorkloads(t, k, p)
		ports := func() string { return sh(t, "nsenter --net="+k.Path(s.Name)+" ip -o link show up") }
		if report := k.Apply(t.Context(), p); len(report.Failed) == 0 {
			t.Fatal("the kernel took the rules")
		}
		if up := ports(); strings.Contains(up, port) {
			t.Errorf("without rules are up:\n%s", up)
		}
		rules.Rules = []string{"counter"}
		mustApply(t, k, p)
		if up := ports(); !strings.Contains(up, port) {
			t.Errorf("with rules are up:\n%s", up)
		}
	})
}
