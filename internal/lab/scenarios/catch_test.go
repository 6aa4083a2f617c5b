package scenarios

import (
	"cmp"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// partsMet are all parts that hold something in any scenario.
func partsMet(t *testing.T, f *Fake, all []*Scenario) []Part {
	t.Helper()
	met := map[Part]bool{}
	f.Mutate = func(_ string, p *plan.Plan) {
		for _, part := range PartsOf(p) {
			met[part] = true
		}
	}
	for _, s := range all {
		if failures := tellFake(t, f, s).Failures; len(failures) > 0 {
			t.Fatalf("without any mutation: %v", failures)
		}
	}
	var parts []Part
	for part := range met {
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b Part) int { return cmp.Compare(a.String(), b.String()) })
	return parts
}

// quickest puts the scenarios of the many clients last: they take longest.
func quickest(all []*Scenario) []*Scenario {
	slow := func(s *Scenario) int {
		if s.Topic == "consistent" {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b *Scenario) int { return cmp.Compare(slow(a), slow(b)) })
	return all
}

// Some entries are there twice over: a mark that stands for datagrams, in a set that is
// asked for connections only. One of the first few must be missed.
const mutatedEntries = 4

// TestSuiteCatches shows that no table can lose an entry or have a wrong one without a
// question that is answered otherwise.
func TestSuiteCatches(t *testing.T) {
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) {
			all := quickest(load(t))
			for _, part := range partsMet(t, NewFake(balancer), all) {
				for how, mutate := range map[string]func(int) Mutate{"dropped": part.Drop, "changed": part.Change} {
					by := ""
					for at := 0; at < mutatedEntries && by == ""; at++ {
						by = caught(t, balancer, mutate(at), all)
					}
					if by == "" {
						t.Errorf("no scenario notices that an entry of %s is %s", part, how)
					} else {
						t.Logf("%s, an entry %s: %s", part, how, by)
					}
				}
			}
		})
	}
}

// caught is the first failure of the first scenario that fails.
func caught(t *testing.T, balancer mesh.Balancer, mutate Mutate, all []*Scenario) string {
	t.Helper()
	f := NewFake(balancer)
	f.Mutate = mutate
	for _, s := range all {
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
