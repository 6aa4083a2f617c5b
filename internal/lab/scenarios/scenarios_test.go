package scenarios

import (
	"testing"
	"testing/synctest"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/mesh"
)

func load(t *testing.T) []*Scenario {
	t.Helper()
	all, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tell tells all scenarios on one fabric.
func tell(t *testing.T, f Fabric) {
	t.Helper()
	for _, s := range load(t) {
		t.Run(s.Title(), func(t *testing.T) {
			for _, failure := range Run(t.Context(), t, f, s).Failures {
				t.Error(failure)
			}
		})
	}
}

func onRealKernel(t *testing.T, balancer mesh.Balancer) *Real {
	t.Helper()
	f, err := NewReal(t.TempDir(), balancer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// TestScenarios tells them where this machine balances by nft.
func TestScenarios(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	tell(t, onRealKernel(t, mesh.BalancerNFT))
}

// TestScenariosFake tells them on kernels in memory where one change in ten fails and
// is tried again, in virtual time.
func TestScenariosFake(t *testing.T) {
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) {
			f := NewFake(balancer)
			f.Faults = 10
			for _, s := range load(t) {
				synctest.Test(t, func(t *testing.T) {
					for _, failure := range Run(t.Context(), t, f, s).Failures {
						t.Error(failure)
					}
				})
			}
		})
	}
}

// TestScenariosBoth tells them with both balancers on one kernel that has both: in the VM,
// where this one has not.
func TestScenariosBoth(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) { tell(t, onRealKernel(t, balancer)) })
	}
}
