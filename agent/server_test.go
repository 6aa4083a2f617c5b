package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func TestThreeAgents(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	a, b, c := agents[0], agents[1], agents[2]
	web := a.create("web", "8080:80", "8080:80/udp")
	if len(web.GetPorts()) != 2 || web.GetScheduler() != "rr" {
		t.Fatalf("created %v", web)
	}
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	e := b.attach("web", "web.1")
	if e.GetNode() != "n2" || e.GetService() != "web" || len(e.GetAttachments()) != 1 || e.GetAttachments()[0].GetInterface() != plan.IngressLink {
		t.Fatalf("attached %v", e)
	}
	address := e.GetAttachments()[0].GetAddresses()[0]
	if text := b.machine.plan().Text(); !strings.Contains(text, "sandbox "+plan.EndpointSandbox(e.GetId())) {
		t.Fatalf("attach returned before the endpoint was applied:\n%s", text)
	}
	for _, other := range []*testAgent{a, c} {
		eventually(t, other.cfg.Name+" sends to web.1", func() bool {
			return other.endpointNames() == "web.1@n2" && strings.Contains(other.machine.plan().Text(), address+":80 weight 1")
		})
	}
	_, err := a.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"})
	refused(t, err, NotHere, codes.FailedPrecondition)
	if _, err := b.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"}); err != nil {
		t.Fatal(err)
	}
	if b.machine.Pinned(plan.EndpointSandbox(e.GetId())) {
		t.Fatal("detach returned and the namespace is still held")
	}
	eventually(t, "n1 has no endpoint", func() bool { return a.endpointNames() == "" })

	nodes, err := c.clusters.ListNodes(t.Context(), &sluicev1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes.GetNodes() {
		if n.GetName() != fmt.Sprintf("n%d", i+1) || n.GetState() != sluicev1.NodeState_NODE_STATE_ALIVE || n.GetSelf() != (i == 2) || n.GetSlot() == 0 {
			t.Errorf("node %d is %v", i, n)
		}
	}
	a.stop()
	eventually(t, "n3 finds n1 silent", func() bool {
		for _, p := range c.status().GetPeers() {
			if p.GetName() == "n1" {
				return p.GetState() == sluicev1.NodeState_NODE_STATE_SILENT
			}
		}
		return false
	})
}

func TestRemoveServiceDetaches(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	e := b.attach("web", "web.1")
	if _, err := a.services.RemoveService(t.Context(), &sluicev1.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "web.1 is gone everywhere", func() bool {
		return a.endpointNames() == "" && b.endpointNames() == "" && !b.machine.Pinned(plan.EndpointSandbox(e.GetId()))
	})
}

func TestRestart(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	kept, lost := a.attach("web", "web.kept"), a.attach("web", "web.lost")
	pid := uint32(os.Getpid())
	ended, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.ended", Namespace: &sluicev1.AttachEndpointRequest_Pid{Pid: pid}, UntilPid: pid,
	})
	if err != nil {
		t.Fatal(err)
	}
	before := a.status()
	a.stop()

	// While no agent ran, a namespace went away and a process made room for another
	// with its number.
	os.Remove(a.machine.Path(plan.EndpointSandbox(lost.GetId())))
	store, _ := mustOpen(t, a.cfg.DataDir)
	store.putLifetime(mesh.EndpointID(ended.GetEndpoint().GetId()), lifetime{PID: int(pid), Start: 1, Boot: "another"})
	store.close()
	a.cfg.Name = "renamed"
	a.machine.failOn("")
	a.start()
	eventually(t, "the kernel is as before", func() bool {
		return strings.Contains(a.machine.plan().Text(), "sandbox "+plan.EndpointSandbox(kept.GetId()))
	})
	after := a.status()
	if after.GetNode().GetId() != before.GetNode().GetId() || after.GetNode().GetSlot() != before.GetNode().GetSlot() || after.GetNode().GetName() != "renamed" {
		t.Fatalf("was %v, is %v", before.GetNode(), after.GetNode())
	}
	eventually(t, "n2 sees one endpoint and the new name", func() bool { return b.endpointNames() == "web.kept@renamed" })
	if got := a.endpointNames(); got != "web.kept@renamed" {
		t.Fatalf("n1 has %q", got)
	}
}

func TestEndpointEndsWithItsProcess(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a, pid := agents[0], uint32(os.Getpid())
	a.create("web")
	resp, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Namespace: &sluicev1.AttachEndpointRequest_Pid{Pid: pid}, UntilPid: pid,
	})
	if err != nil {
		t.Fatal(err)
	}
	e := resp.GetEndpoint()
	if want := "web." + e.GetId()[:shortID]; e.GetName() != want {
		t.Fatalf("the endpoint is called %s, want %s", e.GetName(), want)
	}
	if !a.machine.Pinned(plan.EndpointSandbox(e.GetId())) {
		t.Fatal("an endpoint without an interface lost its namespace")
	}
	a.processes.end(int(pid))
	eventually(t, "the endpoint is gone", func() bool {
		return a.endpointNames() == "" && !a.machine.Pinned(plan.EndpointSandbox(e.GetId()))
	})
}

// What the kernel refuses is undone and the reason told.
func TestAttachIsUndone(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.machine.failOn("ep-")
	_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.1", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns")},
	})
	refused(t, err, NotUsable, codes.FailedPrecondition)
	eventually(t, "nothing is left", func() bool { return a.endpointNames() == "" && len(a.machine.pinned()) == 0 })
	a.machine.failOn("")
	a.attach("web", "web.1")
}

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
	if s.GetObjects() == 0 || s.GetAppliedRevision() == 0 || s.GetVersion() != "test" || s.GetBalancer() != "ipvs" || len(s.GetSandboxes()) != 1 {
		t.Fatalf("status is %v", s)
	}
	resp, err := a.states.GetPlan(t.Context(), &sluicev1.GetPlanRequest{})
	if err != nil || resp.GetText() != a.machine.plan().Text() {
		t.Fatalf("the plan is %v, %v", resp, err)
	}
}

// Every bad input is refused with its reason, and nothing is half-done.
func TestBadInput(t *testing.T) {
	agents, token := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.attach("web", "web.1")
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "blue"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "db", Networks: []string{"blue"}}); err != nil {
		t.Fatal(err)
	}
	used := a.netns("ns-web.1")
	file := filepath.Join(a.cfg.RunDir, "plain")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	service := func(req *sluicev1.CreateServiceRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := a.services.CreateService(ctx, req); return err }
	}
	network := func(req *sluicev1.CreateNetworkRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := a.networks.CreateNetwork(ctx, req); return err }
	}
	attach := func(service, name, netns string, pid uint32) func(context.Context) error {
		return func(ctx context.Context) error {
			req := &sluicev1.AttachEndpointRequest{Service: service, Name: name, UntilPid: pid}
			if netns != "" {
				req.Namespace = &sluicev1.AttachEndpointRequest_Netns{Netns: netns}
			}
			_, err := a.endpoints.AttachEndpoint(ctx, req)
			return err
		}
	}
	removeNetwork := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.networks.RemoveNetwork(ctx, &sluicev1.RemoveNetworkRequest{Network: name})
			return err
		}
	}
	join := func(address, token string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := a.clusters.Join(ctx, &sluicev1.JoinRequest{Address: address, Token: token})
			return err
		}
	}
	for name, c := range map[string]struct {
		call   func(context.Context) error
		reason mesh.Reason
		code   codes.Code
	}{
		"unknown service":       {attach("nginx", "", used, 0), mesh.NotFound, codes.NotFound},
		"taken endpoint name":   {attach("web", "web.1", file, 0), mesh.NameTaken, codes.AlreadyExists},
		"no namespace":          {attach("web", "", "", 0), mesh.BadValue, codes.InvalidArgument},
		"relative path":         {attach("web", "", "plain", 0), mesh.BadValue, codes.InvalidArgument},
		"no such path":          {attach("web", "", file+".absent", 0), mesh.Reason(plan.SandboxGone), codes.NotFound},
		"a file":                {attach("web", "", file, 0), mesh.Reason(plan.SandboxGone), codes.NotFound},
		"process gone":          {attach("web", "", file, 1<<30), mesh.NotFound, codes.NotFound},
		"endpoint name":         {attach("web", "$(reboot)", file, 0), mesh.BadName, codes.InvalidArgument},
		"taken service name":    {service(&sluicev1.CreateServiceRequest{Name: "web"}), mesh.NameTaken, codes.AlreadyExists},
		"taken port":            {service(&sluicev1.CreateServiceRequest{Name: "x", Publish: []string{"8080:81"}}), mesh.PortTaken, codes.AlreadyExists},
		"malformed SPEC":        {service(&sluicev1.CreateServiceRequest{Name: "x", Publish: []string{"80:;rm"}}), mesh.BadPublish, codes.InvalidArgument},
		"port of ssh":           {service(&sluicev1.CreateServiceRequest{Name: "x", Publish: []string{"22:22"}}), mesh.PortReserved, codes.InvalidArgument},
		"port of gossip":        {service(&sluicev1.CreateServiceRequest{Name: "x", Publish: []string{"7956:80"}}), mesh.PortReserved, codes.InvalidArgument},
		"service name for sh":   {service(&sluicev1.CreateServiceRequest{Name: "a;reboot"}), mesh.BadName, codes.InvalidArgument},
		"service name for nft":  {service(&sluicev1.CreateServiceRequest{Name: `a" } accept`}), mesh.BadName, codes.InvalidArgument},
		"unknown network":       {service(&sluicev1.CreateServiceRequest{Name: "x", Networks: []string{"red"}}), mesh.NotFound, codes.NotFound},
		"the ingress network":   {service(&sluicev1.CreateServiceRequest{Name: "x", Networks: []string{"ingress"}}), mesh.BadValue, codes.InvalidArgument},
		"unknown scheduler":     {service(&sluicev1.CreateServiceRequest{Name: "x", Scheduler: "best"}), mesh.BadValue, codes.InvalidArgument},
		"taken network name":    {network(&sluicev1.CreateNetworkRequest{Name: "blue"}), mesh.NameTaken, codes.AlreadyExists},
		"no subnet":             {network(&sluicev1.CreateNetworkRequest{Name: "x", Subnet: "10.0.0.1/20"}), mesh.BadAddress, codes.InvalidArgument},
		"taken subnet":          {network(&sluicev1.CreateNetworkRequest{Name: "x", Subnet: "198.18.0.0/20"}), mesh.SubnetTaken, codes.AlreadyExists},
		"network name":          {network(&sluicev1.CreateNetworkRequest{Name: "../x"}), mesh.BadName, codes.InvalidArgument},
		"network in use":        {removeNetwork("blue"), mesh.InUse, codes.FailedPrecondition},
		"remove ingress":        {removeNetwork("ingress"), mesh.InUse, codes.FailedPrecondition},
		"remove absent network": {removeNetwork("red"), mesh.NotFound, codes.NotFound},
		"join again":            {join(nodeAddr(2), token), InCluster, codes.AlreadyExists},
		"join itself":           {join(nodeAddr(1), token), mesh.BadAddress, codes.InvalidArgument},
		"join nowhere":          {join("somewhere", token), mesh.BadAddress, codes.InvalidArgument},
		"token cut":             {join(nodeAddr(2), token[:20]), BadToken, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.status().GetRevision()
			refused(t, c.call(t.Context()), c.reason, c.code)
			if after := a.status().GetRevision(); after != before {
				t.Fatalf("the refused call changed the state: revision %d became %d", before, after)
			}
		})
	}
	eventually(t, "only web.1 is held", func() bool { return len(a.machine.pinned()) == 1 })
}

func TestNamespaceIsOneEndpoints(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	e := a.attach("web", "web.1")
	_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service:   "web",
		Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.machine.Path(plan.EndpointSandbox(e.GetId()))},
	})
	refused(t, err, NamespaceTaken, codes.AlreadyExists)
}

func TestOutsideCluster(t *testing.T) {
	a, ctx := newTestAgent(t, 1), t.Context()
	for name, call := range map[string]func() error{
		"nodes":    func() error { _, err := a.clusters.ListNodes(ctx, &sluicev1.ListNodesRequest{}); return err },
		"networks": func() error { _, err := a.networks.ListNetworks(ctx, &sluicev1.ListNetworksRequest{}); return err },
		"network": func() error {
			_, err := a.networks.CreateNetwork(ctx, &sluicev1.CreateNetworkRequest{Name: "x"})
			return err
		},
		"services": func() error { _, err := a.services.ListServices(ctx, &sluicev1.ListServicesRequest{}); return err },
		"service": func() error {
			_, err := a.services.CreateService(ctx, &sluicev1.CreateServiceRequest{Name: "x"})
			return err
		},
		"endpoints": func() error { _, err := a.endpoints.ListEndpoints(ctx, &sluicev1.ListEndpointsRequest{}); return err },
		"attach": func() error {
			_, err := a.endpoints.AttachEndpoint(ctx, &sluicev1.AttachEndpointRequest{
				Service: "x", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns")},
			})
			return err
		},
		"detach": func() error {
			_, err := a.endpoints.DetachEndpoint(ctx, &sluicev1.DetachEndpointRequest{Endpoint: "x"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { refused(t, call(), NoCluster, codes.FailedPrecondition) })
	}
	if s := a.status(); s.GetInCluster() || s.GetNode().GetId() == "" {
		t.Fatalf("status is %v", s)
	}
	health, err := grpc_health_v1.NewHealthClient(a.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("health is %v, %v", health, err)
	}
}

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

func TestRunRefuses(t *testing.T) {
	a := newTestAgent(t, 1)
	other := func() Config {
		cfg := a.cfg
		cfg.DataDir, cfg.RunDir = t.TempDir(), t.TempDir()
		return cfg
	}
	for name, c := range map[string]struct {
		change func(*Config, *system)
		reason mesh.Reason
	}{
		"one run directory":  {func(cfg *Config, _ *system) { cfg.RunDir = a.cfg.RunDir }, RunDirInUse},
		"one data directory": {func(cfg *Config, _ *system) { cfg.DataDir = a.cfg.DataDir }, DataDirInUse},
		"kernel feature": {func(_ *Config, s *system) {
			s.missing = func() []string { return []string{"IP_VS: load the module ip_vs"} }
		}, FeatureMissing},
		"name":              {func(cfg *Config, _ *system) { cfg.Name = "a b" }, mesh.BadName},
		"one port for both": {func(cfg *Config, _ *system) { cfg.GossipPort = DefaultVXLANPort }, BadConfig},
		"loopback":          {func(cfg *Config, _ *system) { cfg.Advertise = netip.MustParseAddr("127.0.0.1") }, mesh.BadAddress},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, sys := other(), a.system()
			c.change(&cfg, &sys)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := run(ctx, cfg, sys)
			if mesh.ReasonOf(err) != c.reason || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("run: %v, want %s", err, c.reason)
			}
		})
	}
}
