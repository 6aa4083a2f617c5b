package agent

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A join that fails changes nothing: the node can join properly afterwards.
func TestJoinFails(t *testing.T) {
	agents, token := newTestCluster(t, 1)
	b, ctx := newTestAgent(t, 2), t.Context()
	_, err := b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: nodeAddr(1), Token: otherToken(t)})
	refused(t, err, trust.WrongCluster, codes.PermissionDenied)
	_, err = b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: nodeAddr(3), Token: token})
	refused(t, err, gossip.Unreachable, codes.Unavailable)
	if s := b.status(); s.GetInCluster() || s.GetRevision() != 0 {
		t.Fatalf("status is %v", s)
	}
	b.stop()
	if content := reopened(t, b.cfg.DataDir); content.Member != nil || len(content.Records) != 0 {
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

// Ranges that hold a node's own address, or that mean something else, are refused.
func TestRangesAroundNode(t *testing.T) {
	a, b, ctx := newTestAgent(t, 1), newTestAgent(t, 2), t.Context()
	for name, c := range map[string]struct {
		req    *sluicev1.InitRequest
		reason mesh.Reason
		code   codes.Code
	}{
		"ingress subnet around it": {&sluicev1.InitRequest{IngressSubnet: "192.0.2.0/24"}, mesh.SubnetTaken, codes.AlreadyExists},
		"pool around it":           {&sluicev1.InitRequest{Pool: "192.0.0.0/16"}, mesh.SubnetTaken, codes.AlreadyExists},
		"loopback":                 {&sluicev1.InitRequest{Pool: "127.0.0.0/8"}, mesh.BadAddress, codes.InvalidArgument},
		"multicast":                {&sluicev1.InitRequest{IngressSubnet: "224.0.0.0/16"}, mesh.BadAddress, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.clusters.Init(ctx, c.req)
			refused(t, err, c.reason, c.code)
		})
	}
	b.stop()
	b.cfg.Advertise = netip.MustParseAddr("203.0.113.1") // on no network yet, so only b can say that it is in the way
	b.start()
	resp, err := a.clusters.Init(ctx, &sluicev1.InitRequest{IngressSubnet: "203.0.113.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: resp.GetJoinAddress(), Token: resp.GetToken()})
	refused(t, err, mesh.SubnetTaken, codes.AlreadyExists)
}

// A node on another gossip port finds its peers again after it was away, and its port is
// kept free on all nodes.
func TestGossipPort(t *testing.T) {
	a, b, ctx := newTestAgent(t, 1), newTestAgent(t, 2), t.Context()
	b.stop()
	b.cfg.GossipPort = 7999
	b.start()
	resp, err := a.clusters.Init(ctx, &sluicev1.InitRequest{})
	if err != nil {
		t.Fatal(err)
	}
	joined, err := b.clusters.Join(ctx, &sluicev1.JoinRequest{Address: resp.GetJoinAddress(), Token: resp.GetToken()})
	if err != nil || joined.GetNode().GetGossipPort() != 7999 {
		t.Fatalf("join: %v, %v", joined, err)
	}
	eventually(t, "n1 knows n2", func() bool { return len(a.status().GetPeers()) == 1 })
	_, err = a.services.CreateService(ctx, &sluicev1.CreateServiceRequest{Name: "x", Publish: []string{"7999:80"}})
	refused(t, err, mesh.PortReserved, codes.InvalidArgument)
	b.stop()
	b.start()
	eventually(t, "both see each other after n2 was away", func() bool {
		for _, x := range []*testAgent{a, b} {
			if p := x.status().GetPeers(); len(p) != 1 || p[0].GetState() != sluicev1.NodeState_NODE_STATE_ALIVE {
				return false
			}
		}
		return true
	})
}

// A token comes back from a kernel that is slow too, and again where an answer got lost.
func TestInitGivesTheToken(t *testing.T) {
	a, b := newTestAgent(t, 1), newTestAgent(t, 2)
	release := a.machine.holdUp()
	defer release()
	ctx, cancel := context.WithTimeout(t.Context(), followInit+3*time.Second)
	defer cancel()
	req := &sluicev1.InitRequest{Pool: "10.0.0.0/9"}
	first, err := a.clusters.Init(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	release()
	for range 2 { // also after a restart
		again, err := a.clusters.Init(t.Context(), req)
		if err != nil || again.GetToken() == "" || again.GetJoinAddress() != first.GetJoinAddress() {
			t.Fatalf("init again: %v, %v", again, err)
		}
		a.stop()
		a.start()
	}
	_, err = a.clusters.Init(t.Context(), &sluicev1.InitRequest{Pool: "10.128.0.0/9"})
	refused(t, err, InCluster, codes.AlreadyExists)
	if _, err := b.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: first.GetJoinAddress(), Token: first.GetToken()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n1 knows n2", func() bool { return len(a.status().GetPeers()) == 1 })
	_, err = a.clusters.Init(t.Context(), req)
	refused(t, err, InCluster, codes.AlreadyExists)
}

func reopened(t *testing.T, dir string) *saved {
	t.Helper()
	s, content := mustOpen(t, dir)
	s.close()
	return content
}
