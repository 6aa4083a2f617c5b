package agent

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// published are the ports of a service as package mesh writes them.
func published(s *sluicev1.Service) string {
	var specs []string
	for _, p := range s.GetPorts() {
		specs = append(specs, p.GetMode()+" "+strings.Join([]string{p.GetProtocol(), p.GetAddress()}, " "))
	}
	return strings.Join(specs, ", ")
}

// The bridge network that a service is on by default is there with the first such service, once.
func TestHostedService(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	first := a.create("dns", "5353:53/udp,mode=host")
	if got := published(first); got != "host udp " || strings.Join(first.GetNetworks(), " ") != mesh.DefaultBridgeName {
		t.Fatalf("it publishes %q on networks %v", got, first.GetNetworks())
	}
	eventually(t, "n2 knows the network", func() bool {
		resp, err := b.networks.GetNetwork(t.Context(), &sluicev1.GetNetworkRequest{Network: mesh.DefaultBridgeName})
		return err == nil && strings.Join(resp.GetNetwork().GetServices(), " ") == "dns"
	})
	b.create("mail", "25:25,mode=host", "8000-8009:8000-8009,mode=host,source=192.0.2.0/24")
	refused(t, a.removeNetwork(mesh.DefaultBridgeName), mesh.InUse, codes.FailedPrecondition)
	if e := a.attachTo("dns", "dns.1"); on(e) != mesh.DefaultBridgeName+"*" {
		t.Errorf("its endpoint is on %s", on(e))
	}
	// On a network it is where it is wished to be, and with a port of the mesh on the ingress network.
	a.bridge("yard", "172.30.0.0/24")
	if _, err := a.services.UpdateService(t.Context(), &sluicev1.UpdateServiceRequest{Service: "dns", Networks: names("yard")}); err != nil {
		t.Fatal(err)
	}
	if e := a.endpoint("dns.1"); on(e) != "yard*" {
		t.Errorf("with a network of its own the endpoint is on %s", on(e))
	}
}

// Services may have one port of mode host, on different nodes; a port of the mesh is on all nodes.
func TestHostedPortsAreOfNodes(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80", "8100:80")
	a.create("one", "9000:80,mode=host")
	a.create("two", "9000:80,mode=host", "9000-9009:9000-9009/udp,mode=host")
	for _, spec := range []string{"9000:80", "192.0.2.1:9000:80", "9005:1/udp", "8080:80,mode=host", "8075-8085:8075-8085,mode=host", "8079-8080:79-80,mode=host"} {
		_, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "other", Publish: []string{spec}})
		refused(t, err, mesh.PortTaken, codes.AlreadyExists)
	}
	for _, spec := range []string{"22:22,mode=host", "20-30:20-30,mode=host", "7950-7960:7950-7960/udp,mode=host"} {
		_, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "other", Publish: []string{spec}})
		refused(t, err, mesh.PortReserved, codes.InvalidArgument)
	}
	a.attachTo("one", "one.1")
	for name, want := range map[string]string{"two.1": "n1 tcp/9000 endpoint one.1"} {
		resp, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
			Service: "two", Name: name, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns-" + name)},
		})
		if err != nil || held(resp.GetHeld()) != want {
			t.Errorf("%s is told %q, %v; want %q", name, held(resp.GetHeld()), err, want)
		}
	}
	if p := a.problem(plan.PortTaken); p == nil {
		t.Error("the status has no problem")
	}
}

// A port that somebody has on the node of the endpoint is told there, a range as a whole; a node
// without an endpoint has nothing to tell.
func TestHostedPortHeld(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	for _, m := range []*fakeMachine{a.machine, b.machine} {
		m.occupy(tcpPort(8080), "nginx (pid 812)")
		m.occupy(kernel.Port{Proto: "udp", Number: 8005}, "game (pid 7)")
	}
	a.create("web", "8080:80,mode=host", "8000-8009:8000-8009/udp,mode=host", "9090:90,mode=host")
	resp, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.1", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns")},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "n1 tcp/8080 nginx (pid 812); n1 udp/8000 game (pid 7), which has 8005"
	told := strings.Split(held(resp.GetHeld()), "; ")
	slices.Sort(told)
	if got := strings.Join(told, "; "); got != want {
		t.Errorf("attach says %q", got)
	}
	eventually(t, "n2 has heard", func() bool {
		resp, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		told := strings.Split(held(resp.GetService().GetHeld()), "; ")
		slices.Sort(told)
		return err == nil && strings.Join(told, "; ") == want
	})
	if p := a.problem(plan.PortHeld); p == nil {
		t.Error("the status has no problem")
	}
	if p := b.problem(plan.PortHeld); p != nil {
		t.Errorf("a node without an endpoint says %v", p)
	}
	a.machine.occupy(tcpPort(8080), "")
	a.machine.occupy(kernel.Port{Proto: "udp", Number: 8005}, "")
	eventually(t, "the ports are free", func() bool { return a.problem(plan.PortHeld) == nil })
	// What is answered on stays so, whoever comes later.
	a.machine.occupy(kernel.Port{Proto: "udp", Number: 8009}, "game (pid 8)")
	a.bridge("yard", "172.30.0.0/24")
	eventually(t, "another round", func() bool { return a.status().GetAppliedRevision() == a.status().GetRevision() })
	if p := a.problem(plan.PortHeld); p != nil {
		t.Errorf("a port that was had first is held: %v", p)
	}
}

// Names, stack and mode of a service, and the virtual addresses that come and go with the mode.
func TestServiceNames(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "blue", Subnet: "10.50.0.0/20"}); err != nil {
		t.Fatal(err)
	}
	a.bridge("yard", "172.30.0.0/24")
	resp, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{
		Name: "db", Networks: []string{"blue", "yard"}, Aliases: []string{"sql", "data"}, Stack: "shop",
	})
	if err != nil {
		t.Fatal(err)
	}
	text := func(s *sluicev1.Service) string {
		var on []string
		for _, v := range s.GetVirtualAddresses() {
			on = append(on, v.GetNetwork())
		}
		return strings.Join([]string{strings.Join(s.GetAliases(), ","), s.GetStack(), s.GetEndpointMode(), strings.Join(on, ",")}, " ")
	}
	if got := text(resp.GetService()); got != "data,sql shop vip blue" {
		t.Fatalf("the service is %q", got)
	}
	virtual := resp.GetService().GetVirtualAddresses()[0].GetAddresses()
	none := ""
	for _, c := range []struct {
		req  *sluicev1.UpdateServiceRequest
		want string
	}{
		{&sluicev1.UpdateServiceRequest{Scheduler: "mh"}, "data,sql shop vip blue"},
		{&sluicev1.UpdateServiceRequest{Aliases: names("sql")}, "sql shop vip blue"},
		{&sluicev1.UpdateServiceRequest{Stack: &none}, "sql  vip blue"},
		{&sluicev1.UpdateServiceRequest{EndpointMode: "dnsrr", Aliases: names()}, "  dnsrr "},
		{&sluicev1.UpdateServiceRequest{EndpointMode: "vip"}, "  vip blue"},
	} {
		c.req.Service = "db"
		resp, err := a.services.UpdateService(t.Context(), c.req)
		if err != nil || text(resp.GetService()) != c.want {
			t.Errorf("%v: got %q, %v, want %q", c.req, text(resp.GetService()), err, c.want)
			continue
		}
		if v := resp.GetService().GetVirtualAddresses(); len(v) > 0 && !slices.Equal(v[0].GetAddresses(), virtual) {
			t.Errorf("%v: the virtual address was %v and is %v", c.req, virtual, v)
		}
	}
	before := a.status().GetRevision()
	if _, err := a.services.UpdateService(t.Context(), &sluicev1.UpdateServiceRequest{Service: "db", EndpointMode: "vip", Aliases: names()}); err != nil {
		t.Fatal(err)
	}
	for _, req := range []*sluicev1.UpdateServiceRequest{{EndpointMode: "anycast"}, {Aliases: names("a b")}, {Stack: new("a b")}} {
		req.Service = "db"
		if _, err := a.services.UpdateService(t.Context(), req); err == nil {
			t.Errorf("%v is not refused", req)
		}
	}
	if after := a.status().GetRevision(); after != before {
		t.Errorf("what changes nothing, or is refused, made revision %d of %d", after, before)
	}
}
