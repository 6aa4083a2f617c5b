package scenarios

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// elsewhere are the parts that no scenario asks for, as it would have to speak VXLAN itself:
// what shows that each is missed is named.
func elsewhere() map[Part]string {
	return map[Part]string{
		{plan.KindHost, "inet tunnel_ports"}: "internal/kernel: TestForgedFramesMissed",
	}
}

// meeting is a part, with the scenarios in which it holds something, the quickest first.
type meeting struct {
	part Part
	told []*Scenario
}

// partsMet are all parts that hold something in any scenario.
func partsMet(t *testing.T, f *Fake, all []*Scenario) []meeting {
	t.Helper()
	met := map[Part][]*Scenario{}
	took := map[*Scenario]time.Duration{}
	for _, s := range all {
		here := map[Part]bool{}
		f.Mutate = func(_ string, p *plan.Plan) {
			for _, part := range PartsOf(p) {
				here[part] = true
			}
		}
		begun := time.Now()
		if failures := tellFake(t, f, s).Failures; len(failures) > 0 {
			t.Fatalf("without any mutation: %v", failures)
		}
		took[s] = time.Since(begun)
		for part := range here {
			met[part] = append(met[part], s)
		}
	}
	var parts []meeting
	for part, told := range met {
		slices.SortStableFunc(told, func(a, b *Scenario) int { return cmp.Compare(took[a], took[b]) })
		parts = append(parts, meeting{part, told})
	}
	slices.SortFunc(parts, func(a, b meeting) int { return cmp.Compare(a.part.String(), b.part.String()) })
	return parts
}

// Some entries are there twice over: a mark that stands for datagrams, in a set that is
// asked for connections only. One of the first few must be missed.
const mutatedEntries = 4

// TestSuiteCatches shows that no table can lose an entry or have a wrong one without a
// question that is answered otherwise.
func TestSuiteCatches(t *testing.T) {
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) {
			for _, m := range partsMet(t, NewFake(balancer), load(t)) {
				if by := elsewhere()[m.part]; by != "" {
					t.Logf("%s: %s", m.part, by)
					continue
				}
				for how, mutate := range map[string]func(int) Mutate{"dropped": m.part.Drop, "changed": m.part.Change} {
					by := ""
					for at := 0; at < mutatedEntries && by == ""; at++ {
						by = caught(t, balancer, mutate(at), m.told)
					}
					if by == "" {
						t.Errorf("no scenario notices that an entry of %s is %s", m.part, how)
					} else {
						t.Logf("%s, an entry %s: %s", m.part, how, by)
					}
				}
			}
		})
	}
}

// caught is the first failure of the first scenario that fails.
func caught(t *testing.T, balancer mesh.Balancer, mutate Mutate, told []*Scenario) string {
	t.Helper()
	f := NewFake(balancer)
	f.Mutate = mutate
	for _, s := range told {
		if failures := tellFake(t, f, s).Failures; len(failures) > 0 {
			return failures[0]
		}
	}
	return ""
}

// TestKernelCatches is TestSuiteCatches on this kernel, for the maps that a packet meets
// first and one scenario each.
func TestKernelCatches(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	f := onRealKernel(t, mesh.BalancerNFT)
	title := "who: two endpoints, and a node that has none"
	all := load(t)
	i := slices.IndexFunc(all, func(s *Scenario) bool { return s.Title() == title })
	if i < 0 {
		t.Fatalf("there is no scenario %q", title)
	}
	for _, part := range []Part{
		{plan.KindHost, "inet published"},
		{plan.KindIngress, "inet services4"},
		{plan.KindIngress, "inet ways"},
		{plan.KindIngress, "inet slots6"},
		{plan.KindNetwork, "inet targets4"},
		{plan.KindNetwork, "netdev node_macs"},
	} {
		by := ""
		for at := 0; at < mutatedEntries && by == ""; at++ {
			f.Mutate = part.Drop(at)
			if failures := Run(t.Context(), t, f, all[i]).Failures; len(failures) > 0 {
				by = failures[0]
			}
		}
		if by == "" {
			t.Errorf("no answer changes when an entry of %s is dropped", part)
		}
		t.Logf("%s: %s", part, by)
	}
	f.Mutate = nil
	if failures := Run(t.Context(), t, f, all[i]).Failures; len(failures) > 0 {
		t.Errorf("without a mutation: %v", failures)
	}
}
