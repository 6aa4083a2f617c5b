package agent

import (
	"context"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type clusterServer struct {
	sluicev1.UnimplementedClusterServiceServer
	*api
}

// followInit is how long init waits for the kernel: shorter than any caller waits for the token.
const followInit = 5 * time.Second

// Init makes this node the first of a new cluster.
func (s *clusterServer) Init(ctx context.Context, req *sluicev1.InitRequest) (*sluicev1.InitResponse, error) {
	pool, err := fromPrefix("pool", req.GetPool(), mesh.DefaultPool())
	if err != nil {
		return nil, err
	}
	subnet, err := fromPrefix("ingress subnet", req.GetIngressSubnet(), mesh.DefaultIngress())
	if err != nil {
		return nil, err
	}
	secret, err := s.cluster.init(ctx, pool, subnet)
	if err != nil {
		return nil, err
	}
	short, cancel := context.WithTimeout(ctx, followInit)
	defer cancel()
	s.follow(short)
	return &sluicev1.InitResponse{
		Node: s.ownNode(s.cluster.snapshot()), Token: secret.Token(), JoinAddress: s.cluster.listens().String(),
	}, nil
}

// Join makes this node a member of another node's cluster.
func (s *clusterServer) Join(ctx context.Context, req *sluicev1.JoinRequest) (*sluicev1.JoinResponse, error) {
	seed, err := fromAddrPort(req.GetAddress(), s.config.GossipPort)
	if err != nil {
		return nil, err
	}
	secret, err := trust.ParseToken(req.GetToken())
	if err != nil {
		return nil, mesh.Refuse(BadToken, "take the token that sluice init printed, whole", "the token cannot be used (%v)", err)
	}
	if seed == s.cluster.listens() {
		return nil, mesh.Refuse(mesh.BadAddress, "give the address of a node that is in the cluster", "%s is this node itself", seed)
	}
	if err := s.cluster.join(ctx, seed, secret); err != nil {
		return nil, err
	}
	s.follow(ctx)
	snap := s.cluster.snapshot()
	return &sluicev1.JoinResponse{Node: s.ownNode(snap), Nodes: uint32(len(snap.Nodes))}, nil
}

// Leave ends this node's membership.
func (s *clusterServer) Leave(ctx context.Context, _ *sluicev1.LeaveRequest) (*sluicev1.LeaveResponse, error) {
	rev, untold, err := s.cluster.leaveCluster(ctx)
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.LeaveResponse{}
	if untold != nil {
		resp.Untold = untold.Error()
	}
	return resp, s.loop.wait(ctx, rev)
}

// follow waits until the kernel is that of a member, as far as it can be. Where
// that takes too long the node is one all the same, and the caller hears so.
func (s *clusterServer) follow(ctx context.Context) {
	err := s.write(ctx, func(*mesh.Snapshot) ([]mesh.Record, error) { return nil, nil })
	if err != nil {
		s.config.Log.Warn("the kernel does not follow yet", "err", err)
	}
}

// ListNodes lists the nodes of the cluster.
func (s *clusterServer) ListNodes(context.Context, *sluicev1.ListNodesRequest) (*sluicev1.ListNodesResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	return &sluicev1.ListNodesResponse{Nodes: s.nodes(snap)}, nil
}
