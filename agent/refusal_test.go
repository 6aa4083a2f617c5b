package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// Every bad input is refused with its reason, and nothing is half-done.
func TestBadInput(t *testing.T) {
	agents, token := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.create("bare")
	a.attach("web.1")
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
		"neither port nor net":  {attach("bare", "", a.netns("ns-bare"), 0), NoInterface, codes.FailedPrecondition},
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
		"affinity too short":    {service(&sluicev1.CreateServiceRequest{Name: "x", Affinity: long(time.Millisecond)}), mesh.BadValue, codes.InvalidArgument},
		"affinity before":       {service(&sluicev1.CreateServiceRequest{Name: "x", Affinity: long(-time.Hour)}), mesh.BadValue, codes.InvalidArgument},
		"affinity of no form":   {service(&sluicev1.CreateServiceRequest{Name: "x", Affinity: &durationpb.Duration{Seconds: 1, Nanos: -1}}), mesh.BadValue, codes.InvalidArgument},
		"affinity for ever":     {service(&sluicev1.CreateServiceRequest{Name: "x", Affinity: &durationpb.Duration{Seconds: 1 << 62}}), mesh.BadValue, codes.InvalidArgument},
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
		"token cut":             {join(nodeAddr(2), token[:20]), trust.TokenDamaged, codes.InvalidArgument},
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
		"update": func() error {
			_, err := a.services.UpdateService(ctx, &sluicev1.UpdateServiceRequest{Service: "x"})
			return err
		},
		"drain": func() error {
			_, err := a.endpoints.DrainEndpoint(ctx, &sluicev1.DrainEndpointRequest{Endpoint: "x"})
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
