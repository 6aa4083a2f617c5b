package agent

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

func BenchmarkLarge(b *testing.B) {
	w := scene.Crowd(b, 10000)
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			w.State.Snapshot()
		}
	})
	snap := w.State.Snapshot()
	b.Run("nft", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Compile(mesh.Local{ID: scene.NodeID(1), Balancer: mesh.BalancerNFT}, snap)
		}
	})
}
