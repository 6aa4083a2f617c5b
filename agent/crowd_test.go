package agent

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// BenchmarkCompileMany is a node with very many of one thing; docs/SCALE.md has the rest of what they cost.
func BenchmarkCompileMany(b *testing.B) {
	for name, scenery := range map[string]func() *scene.World{
		"20000 ports": func() *scene.World {
			return scene.Ported(b, scene.Ports(20_000, 20_000, scene.OwnPort(1, 53, mesh.UDP)))
		},
		"1000 bridges":  func() *scene.World { return scene.Networked(b, mesh.Bridge, 1000, 1000) },
		"1000 overlays": func() *scene.World { return scene.Networked(b, mesh.Overlay, 1000, 1000) },
	} {
		b.Run(name, func(b *testing.B) {
			w := scenery()
			snap := w.State.Snapshot()
			b.Run("snapshot", func(b *testing.B) {
				for b.Loop() {
					w.State.Snapshot()
				}
			})
			b.Run("compile", func(b *testing.B) {
				for b.Loop() {
					Compile(mesh.Local{ID: scene.NodeID(1), Balancer: mesh.BalancerNFT}, snap)
				}
			})
		})
	}
}
