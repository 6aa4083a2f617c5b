package kernel_test

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// A look at a kernel in which nothing has changed: what every round costs.
func BenchmarkIdleRound(b *testing.B) {
	p := withoutIPVS(plans(b)["three networks"])
	inHost(b, func() {
		k, err := kernel.New(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer k.Close()
		pinWorkloads(b, k, p)
		if report := k.Apply(b.Context(), p); len(report.Failed) > 0 {
			b.Fatal(report.Failed)
		}
		for b.Loop() {
			if report := k.Apply(b.Context(), p); len(report.Done)+len(report.Failed) > 0 {
				b.Fatal(report)
			}
		}
		b.StopTimer()
		k.Apply(b.Context(), &plan.Plan{})
	})
}
