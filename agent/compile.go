package agent

import (
	"github.com/sluice-mesh/sluice/bridge"
	"github.com/sluice-mesh/sluice/ingress"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/overlay"
)

// Compile says what this node's kernel should hold for snap. It does no I/O and
// never fails: what cannot be expressed is left out and named in the plan with
// its reason. A node that is in no cluster has an empty plan.
func Compile(local mesh.Local, snap *mesh.Snapshot) *plan.Plan {
	return compile(local, snap, snap.Hosted(local.ID))
}

// compile is Compile where the node's own ports are known.
func compile(local mesh.Local, snap *mesh.Snapshot, hosted mesh.Hosting) *plan.Plan {
	var p plan.Plan
	if snap.Node(local.ID) == nil || snap.Network(mesh.IngressNetwork) == nil {
		return &p
	}
	bridge.Compile(local, snap, hosted, &p)
	overlay.Compile(local, snap, hosted, &p)
	ingress.Compile(local, snap, compilerOf(local.Balancer), &p)
	keepPinned(local, snap, &p)
	p.Sort()
	return &p
}

// keepPinned plans the namespace of every local endpoint, also of one that has
// no interface yet: a namespace that is not planned is let go.
func keepPinned(local mesh.Local, snap *mesh.Snapshot, p *plan.Plan) {
	for _, e := range snap.Local(local.ID) {
		p.Sandbox(plan.EndpointSandbox(string(e.ID)), plan.KindEndpoint)
	}
}
