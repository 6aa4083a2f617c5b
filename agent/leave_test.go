package agent

import (
	"testing"

	"google.golang.org/grpc/codes"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A node that leaves is gone from the others, with its endpoints, holds nothing of the cluster
// after a restart either, and may join again, as the node that it was.
func TestLeave(t *testing.T) {
	agents, token := newTestCluster(t, 3)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	b.attach("web.2")
	id := b.status().GetNode().GetId()
	resp, err := b.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{})
	if err != nil || resp.GetUntold() != "" {
		t.Fatalf("leave: %v, %v", resp, err)
	}
	if held := b.machine.plan(); len(held.Sandboxes) > 0 {
		t.Errorf("the plan of a node that left has %d sandboxes", len(held.Sandboxes))
	}
	eventually(t, "the others know two nodes and no endpoint", func() bool {
		for _, x := range []*testAgent{a, agents[2]} {
			if len(x.status().GetPeers()) != 1 || x.endpointNames() != "" {
				return false
			}
		}
		return true
	})
	_, err = b.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{})
	refused(t, err, NoCluster, codes.FailedPrecondition)
	b.stop()
	b.start()
	if s := b.status(); s.GetInCluster() || s.GetNode().GetId() != id {
		t.Errorf("after a restart: %v", s)
	}
	if _, err := b.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: token}); err != nil {
		t.Fatal(err)
	}
	if got := b.status().GetNode().GetId(); got != id {
		t.Errorf("joined again as %s, was %s", got, id)
	}
	b.attach("web.2")
	eventually(t, "n1 has the endpoint again", func() bool { return a.endpointNames() == "web.2@n2" })
}

// A node that nobody can hear leaves all the same, and says that nobody heard it; the last one
// of a cluster has nobody to tell.
func TestLeaveUnheard(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	b.stop()
	defer b.start()
	resp, err := a.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{})
	if err != nil || resp.GetUntold() == "" {
		t.Errorf("leave, with the other one dead: %v, %v", resp, err)
	}
	if a.status().GetInCluster() {
		t.Error("it is a member still")
	}
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	resp, err = a.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{})
	if err != nil || resp.GetUntold() != "" {
		t.Errorf("leave as the only node: %v, %v", resp, err)
	}
}
