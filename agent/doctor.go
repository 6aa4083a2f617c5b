package agent

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// DoctorConfig says for which agent to look at the host. The zero value of each
// field stands for the agent's own default.
type DoctorConfig struct {
	DataDir    string
	RunDir     string
	Advertise  netip.Addr
	GossipPort uint16
	VXLANPort  uint16
	Balancer   BalancerChoice
	Silent     string // why the agent, which is there, did not answer; empty where none is
	Address    string // where it was asked for
}

// Doctor looks at this host without an agent: what of it is missing or in the way.
func Doctor(dc DoctorConfig) (*sluicev1.ExamineResponse, error) {
	return doctorWith(dc, kernel.Inspect)
}

func doctorWith(dc DoctorConfig, inspect func(kernel.Inspection) doctor.Facts) (*sluicev1.ExamineResponse, error) {
	// The name is nothing that is looked at.
	cfg, err := Config{
		DataDir: dc.DataDir, RunDir: dc.RunDir, Advertise: dc.Advertise, GossipPort: dc.GossipPort, VXLANPort: dc.VXLANPort, Balancer: dc.Balancer, Name: "doctor",
	}.complete()
	if err != nil {
		return nil, err
	}
	snap := (&mesh.State{}).Snapshot()
	f := inspect(inspection(cfg, cfg.Advertise, snap))
	f.Now, f.Claims = time.Now(), claims(snap)
	f.Balancer = wouldPick(cfg.Balancer, f.Features)
	f.Agent = doctor.Agent{State: doctor.Absent, Socket: cmp.Or(dc.Address, cfg.Socket), Why: dc.Silent}
	if dc.Silent != "" {
		f.Agent.State = doctor.Silent
	}
	return toExamined(doctor.Judge(&f)), nil
}

// wouldPick is the balancer that an agent with this choice would use.
func wouldPick(c BalancerChoice, features []doctor.Feature) doctor.Balancer {
	would, err := c.pick(func() bool {
		return slices.ContainsFunc(features, func(f doctor.Feature) bool { return f.Name == kernel.FeatureIPVS && f.Missing == "" })
	})
	if err != nil {
		return doctor.Balancer{Why: err.Error()}
	}
	return doctor.Balancer{Name: string(would.balancer), Why: would.why}
}

func inspection(cfg Config, underlay netip.Addr, snap *mesh.Snapshot) kernel.Inspection {
	q := kernel.Inspection{
		RunDir: cfg.RunDir, DataDir: cfg.DataDir, DataFile: storeName, Advertise: underlay,
		GossipPort: cfg.GossipPort, VXLANPort: cfg.VXLANPort, Balancer: string(cfg.Balancer),
		Respects: mesh.Firewall(cfg.Firewall) == mesh.FirewallRespect,
	}
	used := map[mesh.Scheduler]bool{mesh.RoundRobin: true} // which a service has that names none
	for _, s := range snap.Services {
		used[s.Scheduler] = true
	}
	for _, s := range mesh.Schedulers() {
		if used[s] {
			q.Schedulers = append(q.Schedulers, string(s))
		} else {
			q.Spare = append(q.Spare, string(s))
		}
	}
	return q
}

// claims are the prefixes that the mesh uses, or will unless told otherwise.
func claims(snap *mesh.Snapshot) []doctor.Claim {
	all := []doctor.Claim{
		{Prefix: plan.Uplink4(0).Masked(), Use: doctor.UseUplink, Of: "which is between a host and its ingress sandbox"},
		{Prefix: plan.Uplink6(0).Masked(), Use: doctor.UseUplink, Of: "which is between a host and its ingress sandbox"},
	}
	if len(snap.Networks) == 0 {
		return append(all,
			doctor.Claim{Prefix: mesh.DefaultIngress(), Use: doctor.UseNetwork, Of: "which a cluster's ingress network gets unless told otherwise"},
			doctor.Claim{Prefix: mesh.DefaultPool(), Use: doctor.UsePool, Of: "which a cluster's networks get theirs from unless told otherwise"})
	}
	for _, n := range snap.Networks {
		for _, p := range n.Subnets() {
			all = append(all, doctor.Claim{Prefix: p, Use: doctor.UseNetwork, Of: "network " + n.Name})
		}
	}
	for _, n := range snap.Networks {
		if n.Pool.IsValid() {
			all = append(all, doctor.Claim{Prefix: n.Pool, Use: doctor.UsePool, Of: "which new networks get theirs from"})
		}
	}
	return all
}

type doctorServer struct {
	sluicev1.UnimplementedDoctorServiceServer
	*api
}

// Examine looks at the host, and adds what the agent knows.
func (s *doctorServer) Examine(ctx context.Context, _ *sluicev1.ExamineRequest) (*sluicev1.ExamineResponse, error) {
	snap := s.cluster.snapshot()
	q := inspection(s.config, s.cluster.self().Addr, snap)
	q.Balancer = string(s.loop.picked.balancer) // the one that auto became
	f := s.inspect(q)
	f.Now, f.Claims = s.cluster.now(), claims(snap)
	f.Balancer = doctor.Balancer{Name: string(s.loop.picked.balancer), Why: s.loop.picked.why}
	f.Agent = s.known(ctx)
	return toExamined(doctor.Judge(&f)), nil
}

// known is what the agent knows that nobody sees who looks at the host.
func (a *api) known(ctx context.Context) doctor.Agent {
	snap, v, own := a.cluster.snapshot(), a.status.view(), a.cluster.own.ID
	k := doctor.Agent{
		State: doctor.Running, Socket: "unix://" + a.config.Socket, PID: os.Getpid(), Version: a.config.Version,
		InCluster: snap.Node(own) != nil, VNIs: map[uint32]string{}, Published: len(snap.Fronts), Endpoints: len(snap.Local(own)),
		Applied: !v.applied.IsZero(), Repairs: v.repairs,
	}
	if k.InCluster {
		k.Needs = mesh.OverlayMTU(snap.Nodes)
	}
	for _, n := range snap.Nodes {
		if n.ID != own {
			seen := a.loop.pulse.standing(n.ID)
			k.Peers = append(k.Peers, doctor.Peer{Name: n.Name, State: string(seen.presence), Since: seen.since, MTU: n.MTU})
		}
	}
	for _, n := range snap.Networks {
		k.VNIs[uint32(n.VNI)] = n.Name
		if n.Ingress() {
			k.VNIs[uint32(n.EntryVNI)] = n.Name
		}
	}
	for _, p := range v.problems {
		k.Problems = append(k.Problems, p.object+": "+p.reason)
	}
	if last, ok := a.events.last(ObjectRepaired); ok {
		k.Repaired = last.object + ", " + last.text
	}
	k.Ahead, k.AheadWriter = a.cluster.ahead()
	a.compare(ctx, &k)
	return k
}

// diffLimit is for the comparison of the kernel with the plan.
const diffLimit = 15 * time.Second

func (a *api) compare(ctx context.Context, k *doctor.Agent) {
	ctx, cancel := context.WithTimeout(ctx, diffLimit)
	defer cancel()
	ops, err := a.loop.diff(ctx)
	if err != nil {
		k.Undiffed = err.Error()
	}
	for _, op := range ops {
		k.Differences = append(k.Differences, op.String())
	}
}

// ahead tells how far the newest record is ahead of this node's clock, and who wrote it.
func (c *cluster) ahead() (time.Duration, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var newest mesh.Version
	for _, r := range c.state.Records() {
		if r.Version.Time > newest.Time {
			newest = r.Version
		}
	}
	return time.UnixMicro(int64(newest.Time)).Sub(c.now()), c.nodeName(newest.Writer)
}

func toExamined(checks []doctor.Check) *sluicev1.ExamineResponse {
	resp := &sluicev1.ExamineResponse{}
	for _, c := range checks {
		resp.Checks = append(resp.Checks, &sluicev1.Check{Name: c.Name, State: string(c.State), Seen: c.Seen, Do: c.Do})
	}
	return resp
}
