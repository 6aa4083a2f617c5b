package agent

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A node that left keeps the CA's key on a copy of its disk, and could make operators by it, until
// it is removed.
func TestRemoveANodeThatLeft(t *testing.T) {
	agents := newRemoteCluster(t, 2)
	a, b := agents[0], agents[1]
	b.stop()
	copied := reopened(t, b.cfg.DataDir)
	b.start()
	eventually(t, "n1 sees n2", func() bool { return a.knowsAlive("n2") })
	if _, err := b.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n1 is alone", func() bool { return len(a.status().GetPeers()) == 0 })
	key, first := trust.NewKey(), copied.Member.bundle.Authority
	forged := credsOf(key, first, must(first.Issue(trust.RoleOperator, "mallory", key.Public(), time.Now())))
	if err := getStatus(t.Context(), a.remoteFor(forged)); err != nil {
		t.Fatalf("this test makes no operator: %v", err)
	}
	resp, err := a.clusters.RemoveNode(t.Context(), &sluicev1.RemoveNodeRequest{Node: string(copied.ID)})
	if err != nil || resp.GetName() != "n2" {
		t.Fatalf("removed %v, %v", resp, err)
	}
	if err := getStatus(t.Context(), a.remoteFor(forged)); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("an operator that the removed node made: %v", err)
	}
	if _, err := a.clusters.RemoveNode(t.Context(), &sluicev1.RemoveNodeRequest{Node: string(copied.ID)}); err == nil {
		t.Error("it is removed twice")
	}
}

// By its name a node that left is removed where just one had it, and no other has it now.
func TestRemoveByTheNameOfBefore(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, d, e := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority)
	c := a.cluster(t, first, nil, b.self(), d.self(), e.self())
	for _, k := range []keyed{b, d, e} {
		c.Merge([]mesh.Record{k.writes(tombstone(k.self()))})
	}
	if _, err := c.removeNode("n2"); mesh.ReasonOf(err) != mesh.NameTaken {
		t.Errorf("one of two: %v", err)
	}
	if _, err := c.removeNode("n4"); mesh.ReasonOf(err) != mesh.NotFound {
		t.Errorf("nobody: %v", err)
	}
	if _, err := c.removeNode(string(d.ID())); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"n2", "n3"} { // the other one has the name alone by now
		if _, err := c.removeNode(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, snap := c.membership()
	if !snap.Removed(b.ID()) || !snap.Removed(d.ID()) || !snap.Removed(e.ID()) {
		t.Error("they are not removed")
	}
}
