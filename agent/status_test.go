package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func TestStatusTellsWhy(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.machine.failOn(plan.UplinkHost)
	a.create("db")
	var since time.Time
	for round := range 2 {
		reasons := map[string]time.Time{}
		for _, p := range a.status().GetProblems() {
			reasons[p.GetReason()] = p.GetSince().AsTime()
		}
		if len(reasons) != 2 || reasons[string(plan.NoReadyEndpoint)].IsZero() || reasons[string(plan.KernelRefused)].IsZero() {
			t.Fatalf("problems are %v", a.status().GetProblems())
		}
		if round == 1 && reasons[string(plan.NoReadyEndpoint)] != since {
			t.Fatalf("the problem began again at %v instead of %v", reasons[string(plan.NoReadyEndpoint)], since)
		}
		since = reasons[string(plan.NoReadyEndpoint)]
		a.create(fmt.Sprintf("more%d", round))
	}
	s := a.status()
	if s.GetObjects() == 0 || s.GetAppliedRevision() == 0 || s.GetVersion() != "test" || s.GetBalancer() != "ipvs" || s.GetBalancerReason() == "" || len(s.GetSandboxes()) != 1 {
		t.Fatalf("status is %v", s)
	}
	resp, err := a.states.GetPlan(t.Context(), &sluicev1.GetPlanRequest{})
	if err != nil || resp.GetText() != a.machine.plan().Text() {
		t.Fatalf("the plan is %v, %v", resp, err)
	}
}

// An endpoint that the compilers left out cannot be used.
func TestEndpointLeftOut(t *testing.T) {
	w := scene.New(t, 1)
	e := w.Endpoint(w.Service("web", nil, scene.Port(8080, 80, mesh.TCP)), "web.1", 1)
	for object, reason := range map[string]mesh.Reason{
		"endpoint web.1": NotUsable, "endpoint web.10": "", "service web port tcp/8080": "",
	} {
		var p plan.Plan
		p.Leave(plan.NodeUnknown, object, "its node has not claimed the block of its address")
		err := outcome{snap: w.State.Snapshot(), plan: &p}.endpoint(e.ID)
		if mesh.ReasonOf(err) != reason || (err != nil) != (reason != "") {
			t.Errorf("%s was left out, and the endpoint: %v", object, err)
		}
	}
}

// What found no room is a problem of its own: an endpoint's by its name, the node's slot as this node's.
func TestExhaustionIsAProblem(t *testing.T) {
	w := scene.New(t, 1)
	none := mesh.Refuse(mesh.PoolExhausted, "remove nodes", "no slot is left")
	o := outcome{snap: w.State.Snapshot(), plan: &plan.Plan{}, refused: map[mesh.EndpointID]error{"": none, "e000000000000001": none}}
	objects := map[string]string{}
	for _, p := range o.problems() {
		objects[p.object] = p.reason
	}
	if objects["this node"] != "PoolExhausted" || objects["endpoint e000000000000001"] != "PoolExhausted" || len(objects) != 2 {
		t.Errorf("%v", objects)
	}
}
