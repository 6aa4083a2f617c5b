package kernel_test

import (
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// What a node with 10,000 services costs, the nft balancer's: to load, to follow one
// change, to look at when nobody changed anything.
func BenchmarkLarge(b *testing.B) {
	w := scene.Crowd(b, 10_000)
	compile := func() *plan.Plan {
		return agent.Compile(mesh.Local{ID: scene.NodeID(1), Balancer: mesh.BalancerNFT}, w.State.Snapshot())
	}
	first := compile()
	found, _ := w.State.Get(mesh.EndpointRecord(&mesh.Endpoint{ID: scene.EndpointID(7001)}).Key())
	heavier := *found.Endpoint
	heavier.Weight = 2
	w.Write(heavier.Node, mesh.EndpointRecord(&heavier))
	second := compile()
	inHost(b, func() {
		k, err := kernel.New(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer k.Close()
		apply := func(b *testing.B, p *plan.Plan) {
			b.Helper()
			if report := k.Apply(b.Context(), p); len(report.Failed) > 0 {
				b.Fatal(report.Failed)
			}
		}
		pinWorkloads(b, k, first)
		for range 3 { // which is when nothing is read back any more
			apply(b, first)
		}
		b.Run("change", func(b *testing.B) {
			for b.Loop() {
				apply(b, second)
				first, second = second, first
			}
		})
		b.Run("look", func(b *testing.B) {
			for b.Loop() {
				apply(b, second)
			}
		})
		b.Run("load", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				apply(b, &plan.Plan{})
				pinWorkloads(b, k, first)
				b.StartTimer()
				apply(b, first)
			}
		})
		apply(b, &plan.Plan{})
	})
}
