package agent

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh/gossip"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A join that fails changes nothing: the node can join properly afterwards.
func TestJoinFails(t *testing.T) {
	agents, token := newTestCluster(t, 1)
	b, ctx := newTestAgent(t, 2), t.Context()
	_, err := b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: nodeAddr(1), Token: trust.NewSecret().Token()})
	refused(t, err, gossip.WrongSecret, codes.PermissionDenied)
	_, err = b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: nodeAddr(3), Token: token})
	refused(t, err, gossip.Unreachable, codes.Unavailable)
	if s := b.status(); s.GetInCluster() || s.GetRevision() != 0 {
		t.Fatalf("status is %v", s)
	}
	b.stop()
	if content := reopened(t, b.cfg.DataDir); content.Secret != nil || len(content.Records) != 0 {
		t.Fatal("a failed join left something on the disk")
	}
	b.start()
	resp, err := b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: nodeAddr(1) + ":7956", Token: token})
	if err != nil || resp.GetNodes() != 2 {
		t.Fatalf("join: %v, %v", resp, err)
	}
	_, err = b.clusters.Init(ctx, &sluicev1.InitRequest{})
	refused(t, err, InCluster, codes.AlreadyExists)
	eventually(t, "n1 knows n2", func() bool { return len(agents[0].status().GetPeers()) == 1 })
}

func reopened(t *testing.T, dir string) *saved {
	t.Helper()
	s, content := mustOpen(t, dir)
	s.close()
	return content
}
