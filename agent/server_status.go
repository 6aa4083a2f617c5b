package agent

import (
	"context"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type statusServer struct {
	sluicev1.UnimplementedStatusServiceServer
	*api
}

// GetStatus returns the node's view of itself.
func (s *statusServer) GetStatus(ctx context.Context, _ *sluicev1.GetStatusRequest) (*sluicev1.GetStatusResponse, error) {
	snap, v := s.cluster.snapshot(), s.status.view()
	resp := &sluicev1.GetStatusResponse{
		Node: s.ownNode(snap), InCluster: snap.Node(s.cluster.own.ID) != nil,
		Revision: snap.Rev, AppliedRevision: v.snap.Rev, Applied: toTime(v.applied),
		Objects: uint32(objects(v.plan)), Problems: toProblems(v.problems),
		Balancer: string(s.loop.picked.balancer), BalancerReason: s.loop.picked.why, Version: s.config.Version,
		Repairs: v.repairs, Names: toNameCounts(s.loop.names),
	}
	if resp.GetInCluster() {
		resp.Agreement = toAgreement(s.agreement.look(ctx), snap)
	}
	for _, n := range s.nodes(snap) {
		if !n.GetSelf() {
			resp.Peers = append(resp.Peers, n)
		}
	}
	for _, sandbox := range v.plan.Sandboxes {
		if sandbox.Kind != plan.KindHost {
			resp.Sandboxes = append(resp.Sandboxes, &sluicev1.Sandbox{Name: sandbox.Name, Path: s.loop.machine.Path(sandbox.Name)})
		}
	}
	return resp, nil
}

// toNameCounts asks nobody and takes no lock.
func toNameCounts(n *naming) *sluicev1.NameCounts {
	if n == nil {
		return nil
	}
	c := n.tell.Counts()
	return &sluicev1.NameCounts{
		Questions: c.Queries, Cached: c.Cached, Forwarded: c.Forwarded, Stale: c.Stale, Failed: c.Failed, Refused: c.Refused,
	}
}

func toAgreement(a agreed, snap *mesh.Snapshot) *sluicev1.Agreement {
	names := func(ids []mesh.NodeID) []string {
		var list []string
		for _, id := range ids {
			if n := snap.Node(id); n != nil {
				list = append(list, n.Name)
			}
		}
		return list
	}
	return &sluicev1.Agreement{Since: toTime(a.since), Differ: names(a.differ), Silent: names(a.silent)}
}

// objects counts what a plan holds.
func objects(p *plan.Plan) int {
	n := 0
	for _, s := range p.Sandboxes {
		n += len(s.Links) + len(s.Addrs) + len(s.Routes) + len(s.Rules) + len(s.Neighs) + len(s.FDB) + len(s.Sysctls) + len(s.Virtual) + len(s.Backends)
		for _, t := range s.Tables {
			for _, set := range t.Sets {
				n += len(set.Elements)
			}
			for _, c := range t.Chains {
				n += len(c.Rules)
			}
		}
	}
	return n
}

// GetPlan returns what the node's kernel should hold, or how it differs.
func (s *statusServer) GetPlan(ctx context.Context, req *sluicev1.GetPlanRequest) (*sluicev1.GetPlanResponse, error) {
	if !req.GetDiff() {
		want, err := s.loop.desired(ctx)
		if err != nil {
			return nil, err
		}
		return &sluicev1.GetPlanResponse{Text: want.Text()}, nil
	}
	ops, err := s.loop.diff(ctx)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, op := range ops {
		text.WriteString(op.String())
		text.WriteByte('\n')
	}
	return &sluicev1.GetPlanResponse{Text: text.String(), Differences: uint32(len(ops))}, nil
}
