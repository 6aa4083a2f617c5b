package kernel_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// workloadsOwn are rules and routes that a workload's own programs have, some with numbers like ours.
const workloadsOwn = `
	nsenter --net=$EP ip rule add to 198.51.100.0/24 lookup 100
	nsenter --net=$EP ip rule add from 192.0.2.1 lookup 100 priority 32764
	nsenter --net=$EP ip rule add from 192.0.2.2 lookup 100 priority 200 protocol 83
	nsenter --net=$EP ip -6 rule add from 2001:db8::1 lookup 100
	nsenter --net=$EP ip link add own type bridge
	nsenter --net=$EP ip link set own up
	nsenter --net=$EP ip route add 192.0.2.0/24 dev own table 3323080503
	nsenter --net=$EP ip route add 192.0.2.0/24 dev own table 100 proto 83
	nsenter --net=$EP ip route add 198.51.100.0/24 dev own table 100`

// ownLines are those of the above in what the endpoint holds.
func ownLines(t *testing.T, paths func(string) string) []string {
	t.Helper()
	all := sh(t, paths("nsenter --net=$EP sh -c 'ip rule; ip -6 rule; ip route show table all'"))
	return slices.DeleteFunc(strings.Split(all, "\n"), func(line string) bool {
		return !strings.Contains(line, "192.0.2.") && !strings.Contains(line, "2001:db8::1")
	})
}

// The rules and tables of an endpoint on several networks are put back where somebody takes or changes
// them, which is heard; what a workload has of its own stays, also when all of ours goes.
func TestRules(t *testing.T) {
	p := holdable(plans(t)["three networks"])
	inHost(t, func() {
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		workloads := pinWorkloads(t, k, p)
		i := slices.IndexFunc(endpoints(p), func(name string) bool { return len(p.Sandbox(name, plan.KindEndpoint).Rules) > 0 })
		if i < 0 {
			t.Fatal("no endpoint has rules")
		}
		ep := endpoints(p)[i]
		rule := p.Sandbox(ep, plan.KindEndpoint).Rules[0]
		paths := strings.NewReplacer("$EP", workloads[i].Path(), "$FROM", rule.From.String()).Replace
		sh(t, paths(workloadsOwn))
		before := ownLines(t, paths)
		mustApply(t, k, p)
		settleDrifts(t, k)
		// What the workload's rules led into its tunnel before we came goes there still.
		if way := sh(t, paths("nsenter --net=$EP ip route get 198.51.100.1 from $FROM")); !strings.Contains(way, "dev own") {
			t.Errorf("the workload's own way is not taken: %s", way)
		}
		for _, command := range []string{
			"ip rule del priority 32764 from $FROM",
			"ip rule del priority 32765 from $FROM",
			"ip -6 rule del priority 32764",
			"ip rule del priority 32765 from $FROM; ip rule add priority 32765 from $FROM lookup 100 protocol 83",
			"ip rule del priority 32764 from $FROM; ip rule add priority 32764 from $FROM lookup main protocol 83",
			"ip rule add priority 32765 from 192.0.2.9 lookup 100 protocol 83",
			"ip route flush table $(ip rule show priority 32765 from $FROM | sed 's/.*lookup \\([0-9]*\\).*/\\1/')",
		} {
			sh(t, paths("nsenter --net=$EP sh -ec "+quoted(command)))
			if _, ok := heard(t, k, func(d kernel.Drift) bool { return d.Sandbox == ep && d.Kind != "" }); !ok {
				t.Errorf("%s: not heard", command)
			}
			if ops, err := k.Diff(t.Context(), p); err != nil || len(ops) == 0 {
				t.Errorf("%s: not seen: %v, %v", command, ops, err)
			}
			mustApply(t, k, p)
			settleDrifts(t, k)
		}
		if after := ownLines(t, paths); !slices.Equal(after, before) {
			t.Errorf("the workload had\n%s\nand has\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		mustApply(t, k, &plan.Plan{})
		if after := ownLines(t, paths); !slices.Equal(after, before) {
			t.Errorf("detached, the workload had\n%s\nand has\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		left := sh(t, paths("nsenter --net=$EP sh -c 'ip rule; ip -6 rule'"))
		if strings.Count(left, "32764:") != 1 || strings.Count(left, "32765:") != 2 { // those of the workload
			t.Errorf("rules of ours are left:\n%s", left)
		}
	})
}

func quoted(command string) string { return "'" + strings.ReplaceAll(command, "'", `'\''`) + "'" }

// The fake refuses what the kernel would, and what nobody would find again.
func TestFakeRefusesRules(t *testing.T) {
	ep, from := plan.EndpointSandbox("1"), netip.MustParseAddr("10.0.0.1")
	for name, rule := range map[string]plan.Rule{
		"without a table":      {Priority: 32765, From: from},
		"without an address":   {Priority: 32765, Table: plan.OwnTable(from)},
		"of a workload's rank": {Priority: 7, From: from, Table: plan.MainTable},
	} {
		f := kernel.NewFake()
		f.Pin(ep)
		s := &plan.Sandbox{Name: ep, Kind: plan.KindEndpoint, Rules: []plan.Rule{rule}}
		if report := f.Apply(t.Context(), &plan.Plan{Sandboxes: []*plan.Sandbox{s}}); len(report.Failed) == 0 {
			t.Errorf("a rule %s is taken", name)
		}
	}
	route := plan.Route{Kind: plan.RouteUnreachable, Dst: netip.PrefixFrom(from, 32), Table: plan.OwnTable(from)}
	host := &plan.Sandbox{Name: plan.HostSandbox, Kind: plan.KindHost, Routes: []plan.Route{route}}
	if report := kernel.NewFake().Apply(t.Context(), &plan.Plan{Sandboxes: []*plan.Sandbox{host}}); len(report.Failed) == 0 {
		t.Error("a table of the host is taken, where it would not be found again")
	}
}
