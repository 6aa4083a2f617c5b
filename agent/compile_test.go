package agent

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

func TestCompileGolden(t *testing.T) {
	for name, build := range scene.All() {
		t.Run(name, func(t *testing.T) {
			w := scene.New(t, 3)
			build(w)
			p := Compile(mesh.Local{ID: scene.NodeID(1)}, w.State.Snapshot())
			golden.Equal(t, p.Text())
		})
	}
	for _, name := range []string{"two services", "draining", "no endpoint", "affinity", "virtual"} {
		t.Run("nft "+name, func(t *testing.T) {
			w := scene.New(t, 3)
			scene.All()[name](w)
			golden.Equal(t, Compile(mesh.Local{ID: scene.NodeID(1), Balancer: mesh.BalancerNFT}, w.State.Snapshot()).Text())
		})
	}
	for _, name := range []string{"hosted ranges", "published on one address"} {
		t.Run("respect "+name, func(t *testing.T) {
			w := scene.New(t, 3)
			scene.All()[name](w)
			golden.Equal(t, Compile(mesh.Local{ID: scene.NodeID(1), Firewall: mesh.FirewallRespect}, w.State.Snapshot()).Text())
		})
	}
}

// Records that arrive in any order, some of them twice, give the same bytes.
func TestCompileIsOrderFree(t *testing.T) {
	for name, build := range scene.All() {
		t.Run(name, func(t *testing.T) {
			w := scene.New(t, 3)
			build(w)
			want := Compile(mesh.Local{ID: scene.NodeID(1)}, w.State.Snapshot()).Text()
			records := w.State.Records()
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 1))
				r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
				var state mesh.State
				for _, rec := range records {
					state.Merge(rec)
					state.Merge(records[r.IntN(len(records))])
				}
				if got := Compile(mesh.Local{ID: scene.NodeID(1)}, state.Snapshot()).Text(); got != want {
					t.Fatalf("seed %d: plan differs from\n%s\ngot\n%s", seed, want, got)
				}
			}
		})
	}
}

func TestCompileOutsideCluster(t *testing.T) {
	var state mesh.State
	if text := Compile(mesh.Local{ID: scene.NodeID(1)}, state.Snapshot()).Text(); text != "" {
		t.Fatalf("a node in no cluster should plan nothing, got\n%s", text)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, services := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			snap := scene.Large(b, services)
			b.ReportAllocs()
			for b.Loop() {
				Compile(mesh.Local{ID: scene.NodeID(1)}, snap)
			}
		})
	}
}
