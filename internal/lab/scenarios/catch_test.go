package scenarios

import (
	"cmp"
	"slices"
	"testing"
	"testing/synctest"

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

func tellFake(t *testing.T, f *Fake, s *Scenario) (seen *Seen) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { seen = Run(t.Context(), t, f, s) })
	return seen
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
