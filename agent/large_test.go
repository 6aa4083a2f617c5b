package agent

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// What one change costs before the kernel hears of it, with 10,000 services.
func BenchmarkLarge(b *testing.B) {
	w := scene.Crowd(b, 10_000)
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.State.Snapshot()
		}
	})
	snap := w.State.Snapshot()
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		b.Run("compile "+string(balancer), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Compile(mesh.Local{ID: scene.NodeID(1), Balancer: balancer}, snap)
			}
		})
	}
}
