package agent

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
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
	for _, name := range []string{"hosted ranges", "bridge routed"} {
		t.Run("lock "+name, func(t *testing.T) {
			w := scene.New(t, 3)
			scene.All()[name](w)
			golden.Equal(t, Compile(mesh.Local{ID: scene.NodeID(1), Lock: true}, w.State.Snapshot()).Text())
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

// What the mesh led to an endpoint is answered by the ingress network alone, so that no priority
// of another network takes the default route from it.
func TestGatewayOfMeshPort(t *testing.T) {
	w := scene.New(t, 3)
	blue, red := w.Network("blue"), w.Bridge("red", mesh.NetworkWish{})
	s := w.Service("web", []mesh.NetworkID{blue}, scene.Port(8080, 80, mesh.TCP))
	w.Join(w.Endpoint(s, "web.1", 1), mesh.Joined{Network: red, Gateway: 10})
	snap := w.State.Snapshot()
	e := snap.EndpointNamed("web.1")
	p := Compile(mesh.Local{ID: scene.NodeID(1)}, snap)
	var on []string
	for _, r := range p.Sandbox(plan.EndpointSandbox(string(e.ID)), plan.KindEndpoint).Routes {
		if r.Dst.Bits() == 0 && r.Table == 0 {
			on = append(on, r.Link)
		}
	}
	if want := []string{plan.IngressLink, plan.IngressLink}; !slices.Equal(on, want) {
		t.Errorf("default routes are on %v, want %v", on, want)
	}
	if at, _ := snap.Gateway(e); at.Network != mesh.IngressNetwork {
		t.Errorf("the endpoint is said to have its default route on %s", at.Network)
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
