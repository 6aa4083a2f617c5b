package agent

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Of a node that is gone the endpoints are no backends, a service that has no other
// refuses, and all that leads to the node stays.
func TestCompileGone(t *testing.T) {
	w := scene.New(t, 3)
	web := w.Service("web", nil, scene.Port(8080, 80, mesh.TCP))
	w.Endpoint(web, "web.1", 1)
	w.Endpoint(web, "web.2", 2)
	w.Endpoint(w.Service("dns", nil, scene.Port(5353, 53, mesh.UDP)), "dns.1", 2)
	snap := w.State.Snapshot()
	all := Compile(mesh.Local{ID: scene.NodeID(1)}, snap)
	without := Compile(mesh.Local{ID: scene.NodeID(1), Gone: map[mesh.NodeID]bool{scene.NodeID(2): true}}, snap)
	before, after := all.Sandbox(plan.IngressSandbox, plan.KindIngress), without.Sandbox(plan.IngressSandbox, plan.KindIngress)
	shown := plan.Plan{Sandboxes: []*plan.Sandbox{after}, Left: without.Left}
	golden.Equal(t, shown.Text())
	if len(after.Routes) != len(before.Routes) || len(after.FDB) != len(before.FDB) || len(after.Neighs) != len(before.Neighs) {
		t.Error("a way to the node is gone with it")
	}
	if len(before.Backends) != 6 || len(after.Backends) != 2 {
		t.Errorf("%d backends are left of %d, want 2 of 6", len(after.Backends), len(before.Backends))
	}
}
