package kernel_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// What endpoints begin while the host's rules are away is forgotten when they are back: it leaves by
// the host's address from then on, and what crossed from bridge to bridge ends. Flows of others stay.
func TestFlowsBegunWithoutRules(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n := newOneNode(t, mesh.BalancerNFT)
	n.edit = func(p *plan.Plan) { p.Host().Lock = nil } // as where the kernel has none
	blue, red := n.world.Bridge("blue", mesh.NetworkWish{}), n.world.Bridge("red", mesh.NetworkWish{})
	n.serve(n.world.Service("a", []mesh.NetworkID{blue}), "a.1")
	n.serve(n.world.Service("b", []mesh.NetworkID{red}), "b.1")
	n.round()
	n.listen(n.client, "client")
	n.listen(n.host, "host")
	a, err := space.Open(n.kernel.Path(plan.EndpointSandbox(string(n.endpoint("a.1").ID))))
	n.must(err)
	t.Cleanup(func() { n.must(a.Close()) })
	run := func(command string) string {
		t.Helper()
		out, err := n.host.Run(t.Context(), "sh", "-ec", command)
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		return out
	}
	// Another program that asks for states: conntrack works without us.
	run(`nft 'table inet others { chain c { type filter hook forward priority 0; ct state new counter; }; }'
		nft delete table inet sluice
		conntrack -I -p udp -t 600 -s 203.0.113.1 -d 192.0.2.100 --sport 1 --dport 2`)
	// Of several addresses the client answers from the one that its kernel prefers.
	at := func(addr netip.Addr) netip.AddrPort { return netip.AddrPortFrom(addr, probe.TargetPort) }
	b := n.endpoint("b.1").Attached[0]
	begun := []struct {
		who    string
		flow   *probe.Flow
		before string // who answers without rules
		after  string
	}{
		{"the world", n.flow(a, at(clientAddr(plan.IPv4, 0))), "nobody", "client"},
		{"the world by IPv6", n.flow(a, at(clientAddr(plan.IPv6, clients-1))), "nobody", "client"},
		{"the host", n.flow(a, at(n.world.State.Snapshot().Network(blue).Gateway4)), "host", "host"},
		{"another bridge", n.flow(a, at(b.V4)), "b.1", "nobody"},
		{"another bridge by IPv6", n.flow(a, at(b.V6)), "b.1", "nobody"},
	}
	for _, f := range begun {
		if got := answered(f.flow); got != f.before {
			t.Errorf("without rules, %s: %s answers, want %s", f.who, got, f.before)
		}
	}
	n.round()
	for _, f := range begun {
		if got := answered(f.flow); got != f.after {
			t.Errorf("with rules again, %s: %s answers, want %s", f.who, got, f.after)
		}
	}
	if left := run("conntrack -L -p udp -s 203.0.113.1 2>/dev/null"); !strings.Contains(left, "203.0.113.1") {
		t.Error("the flow of somebody else is gone")
	}
}
