package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// bridge makes a bridge network.
func (a *testAgent) bridge(name, subnet string) *sluicev1.Network {
	a.tb.Helper()
	resp, err := a.networks.CreateNetwork(a.tb.Context(), &sluicev1.CreateNetworkRequest{Name: name, Driver: "bridge", Subnets: []string{subnet}})
	if err != nil {
		a.tb.Fatal(err)
	}
	return resp.GetNetwork()
}

// connect puts an endpoint on a network.
func (a *testAgent) connect(endpoint string, c *sluicev1.Connection) (*sluicev1.Endpoint, error) {
	resp, err := a.endpoints.ConnectEndpoint(a.tb.Context(), &sluicev1.ConnectEndpointRequest{Endpoint: endpoint, Connection: c})
	return resp.GetEndpoint(), err
}

// disconnect takes web.1 off a network.
func (a *testAgent) disconnect(network string) (*sluicev1.Endpoint, error) {
	resp, err := a.endpoints.DisconnectEndpoint(a.tb.Context(), &sluicev1.DisconnectEndpointRequest{Endpoint: "web.1", Network: network})
	return resp.GetEndpoint(), err
}

func (a *testAgent) endpoint(name string) *sluicev1.Endpoint {
	a.tb.Helper()
	resp, err := a.endpoints.GetEndpoint(a.tb.Context(), &sluicev1.GetEndpointRequest{Endpoint: name})
	if err != nil {
		a.tb.Fatal(err)
	}
	return resp.GetEndpoint()
}

// on are the networks of an endpoint, the one with the default route marked.
func on(e *sluicev1.Endpoint) string {
	var names []string
	for _, at := range e.GetAttachments() {
		name := at.GetNetwork()
		if at.GetDefaultRoute() {
			name += "*"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func (a *testAgent) removeNetwork(name string) error {
	_, err := a.networks.RemoveNetwork(a.tb.Context(), &sluicev1.RemoveNetworkRequest{Network: name})
	return err
}

func TestConnectEndpoint(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	a.attach("web.1")
	a.bridge("yard", "172.30.0.0/24")
	e, err := a.connect("web.1", &sluicev1.Connection{
		Network: "yard", Addresses: []string{"172.30.0.7"}, Mac: "02:00:00:00:00:07", Interface: "net0", GatewayPriority: 5, Aliases: []string{"db"},
		Sysctls: []string{"net.ipv4.conf.IFNAME.log_martians=1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(e.GetAttachments(), func(at *sluicev1.Attachment) bool { return at.GetNetwork() == "yard" })
	if i < 0 || on(e) != "ingress* yard" {
		t.Fatalf("the endpoint is on %s", on(e))
	}
	at := e.GetAttachments()[i]
	if at.GetAddresses()[0] != "172.30.0.7" || at.GetMac() != "02:00:00:00:00:07" || at.GetInterface() != "net0" || at.GetDriver() != "bridge" || !at.GetConnected() ||
		at.GetGatewayPriority() != 5 || strings.Join(at.GetAliases(), " ") != "db" || strings.Join(at.GetSysctls(), " ") != "net.ipv4.conf.IFNAME.log_martians=1" {
		t.Errorf("the interface is %v", at)
	}
	eventually(t, "n2 knows", func() bool {
		resp, err := b.networks.GetNetwork(t.Context(), &sluicev1.GetNetworkRequest{Network: "yard"})
		return err == nil && len(resp.GetEndpoints()) == 1 && resp.GetEndpoints()[0].GetName() == "web.1" && resp.GetNetwork().GetDriver() == "bridge"
	})
	for network, reason := range map[string]mesh.Reason{"yard": AlreadyConnected, "ingress": AlreadyConnected} {
		_, err = a.connect("web.1", &sluicev1.Connection{Network: network})
		refused(t, err, reason, codes.AlreadyExists)
	}
	_, err = b.connect("web.1", &sluicev1.Connection{Network: "yard"})
	refused(t, err, NotHere, codes.FailedPrecondition)
	refused(t, a.removeNetwork("yard"), mesh.InUse, codes.FailedPrecondition)
	_, err = a.disconnect("ingress")
	refused(t, err, mesh.InUse, codes.FailedPrecondition)
	_, err = a.disconnect("nowhere")
	refused(t, err, mesh.NotFound, codes.NotFound)
	if e, err = a.disconnect("yard"); err != nil || on(e) != "ingress*" || len(e.GetFixed()) != 0 {
		t.Fatalf("after it was disconnected the endpoint is on %s and asks for %v, %v", on(e), e.GetFixed(), err)
	}
	if text := a.machine.plan().Text(); strings.Contains(text, "net0") || strings.Contains(text, "172.30.0.7") {
		t.Error("the interface is still planned")
	}
	_, err = a.disconnect("yard")
	refused(t, err, mesh.NotFound, codes.NotFound)
	if err := a.removeNetwork("yard"); err != nil {
		t.Error(err)
	}
}

// What the kernel refuses is undone: the endpoint is as it was, and so is what it asked for before.
func TestConnectIsUndone(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.attach("web.1")
	a.bridge("yard", "172.30.0.0/24")
	a.bridge("shed", "172.31.0.0/24")
	before, err := a.connect("web.1", &sluicev1.Connection{Network: "shed", Addresses: []string{"172.31.0.9"}})
	if err != nil {
		t.Fatal(err)
	}
	a.machine.failOn("net0")
	_, err = a.connect("web.1", &sluicev1.Connection{Network: "yard", Addresses: []string{"172.30.0.7"}, Interface: "net0"})
	refused(t, err, NotUsable, codes.FailedPrecondition)
	if now := a.endpoint("web.1"); on(now) != on(before) || strings.Join(now.GetFixed(), " ") != "172.31.0.9" {
		t.Errorf("the endpoint was on %s and is on %s with %v", on(before), on(now), now.GetFixed())
	}
	if text := a.machine.plan().Text(); strings.Contains(text, "net0") {
		t.Error("the interface is still planned")
	}
	a.machine.failOn("")
	if e, err := a.connect("web.1", &sluicev1.Connection{Network: "yard", Interface: "net0"}); err != nil || on(e) != "ingress* shed yard" {
		t.Errorf("the endpoint is on %s, %v", on(e), err)
	}
}

// A connection that is refused changes nothing.
func TestConnectionRefused(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.create("local", "9090:80,mode=host")
	a.attach("web.1")
	a.attachTo("local", "local.1")
	a.bridge("yard", "172.30.0.0/24")
	for name, c := range map[string]struct {
		endpoint string
		c        *sluicev1.Connection
		reason   mesh.Reason
		code     codes.Code
	}{
		"no network":        {"web.1", nil, mesh.NotFound, codes.NotFound},
		"unknown network":   {"web.1", &sluicev1.Connection{Network: "red"}, mesh.NotFound, codes.NotFound},
		"unknown endpoint":  {"web.2", &sluicev1.Connection{Network: "yard"}, mesh.NotFound, codes.NotFound},
		"ingress network":   {"local.1", &sluicev1.Connection{Network: "ingress"}, mesh.BadValue, codes.InvalidArgument},
		"no address":        {"web.1", &sluicev1.Connection{Network: "yard", Addresses: []string{"x"}}, mesh.BadAddress, codes.InvalidArgument},
		"another subnet's":  {"web.1", &sluicev1.Connection{Network: "yard", Addresses: []string{"172.31.0.1"}}, mesh.BadAddress, codes.InvalidArgument},
		"the gateway's":     {"web.1", &sluicev1.Connection{Network: "yard", Addresses: []string{"172.30.0.1"}}, mesh.BadAddress, codes.InvalidArgument},
		"no MAC":            {"web.1", &sluicev1.Connection{Network: "yard", Mac: "02:00"}, mesh.BadAddress, codes.InvalidArgument},
		"MAC of zeros":      {"web.1", &sluicev1.Connection{Network: "yard", Mac: "00:00:00:00:00:00"}, mesh.BadAddress, codes.InvalidArgument},
		"the gateway's MAC": {"web.1", &sluicev1.Connection{Network: "yard", Mac: "02:53:ac:1e:00:01"}, mesh.AddressTaken, codes.AlreadyExists},
		"MAC of an address": {"web.1", &sluicev1.Connection{Network: "yard", Mac: "02:53:ac:1e:00:09"}, mesh.AddressTaken, codes.AlreadyExists},
		"MAC of a group":    {"web.1", &sluicev1.Connection{Network: "yard", Mac: "01:00:5e:00:00:01"}, mesh.BadAddress, codes.InvalidArgument},
		"interface lo":      {"web.1", &sluicev1.Connection{Network: "yard", Interface: "lo"}, mesh.BadName, codes.InvalidArgument},
		"long interface":    {"web.1", &sluicev1.Connection{Network: "yard", Interface: "abcdefghijklmnop"}, mesh.BadName, codes.InvalidArgument},
		"bad alias":         {"web.1", &sluicev1.Connection{Network: "yard", Aliases: []string{"a b"}}, mesh.BadName, codes.InvalidArgument},
		"sysctl of a host":  {"web.1", &sluicev1.Connection{Network: "yard", Sysctls: []string{"net.ipv4.ip_forward=1"}}, mesh.BadValue, codes.InvalidArgument},
		"sysctl by name":    {"web.1", &sluicev1.Connection{Network: "yard", Sysctls: []string{"net.ipv4.conf.eth0.rp_filter=1"}}, mesh.BadValue, codes.InvalidArgument},
		"sysctl of no one":  {"web.1", &sluicev1.Connection{Network: "yard", Sysctls: []string{"net.core.conf.IFNAME.x=1"}}, mesh.BadValue, codes.InvalidArgument},
		"sysctl bare":       {"web.1", &sluicev1.Connection{Network: "yard", Sysctls: []string{"net.ipv4.conf.IFNAME.rp_filter"}}, mesh.BadValue, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.status().GetRevision()
			_, err := a.connect(c.endpoint, c.c)
			refused(t, err, c.reason, c.code)
			if after := a.status().GetRevision(); after != before {
				t.Errorf("the refused call changed the state: revision %d became %d", before, after)
			}
		})
	}
}

// An endpoint may be given networks of its own when it is attached, and be something else on one of
// its service's.
func TestAttachWithNetworks(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	if _, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "bare"}); err != nil {
		t.Fatal(err)
	}
	yard := a.bridge("yard", "172.30.0.0/24")
	attach := func(name string, networks ...*sluicev1.Connection) (*sluicev1.AttachEndpointResponse, error) {
		return a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
			Service: "bare", Name: name, Networks: networks, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns-" + name)},
		})
	}
	_, err := attach("bare.0")
	refused(t, err, NoInterface, codes.FailedPrecondition)
	_, err = attach("bare.0", &sluicev1.Connection{Network: "yard"}, &sluicev1.Connection{Network: yard.GetId()})
	refused(t, err, mesh.BadValue, codes.InvalidArgument)
	resp, err := attach("bare.1", &sluicev1.Connection{Network: yard.GetId(), Addresses: []string{"172.30.0.9"}})
	if err != nil {
		t.Fatal(err)
	}
	at := resp.GetEndpoint().GetAttachments()
	if on(resp.GetEndpoint()) != "yard*" || at[0].GetAddresses()[0] != "172.30.0.9" || at[0].GetInterface() != plan.BridgedLink(yard.GetId()) {
		t.Errorf("the endpoint has %v", at)
	}
	_, err = attach("bare.2", &sluicev1.Connection{Network: "yard", Addresses: []string{"172.30.0.9"}})
	refused(t, err, mesh.AddressTaken, codes.AlreadyExists)
	_, err = a.endpoints.DisconnectEndpoint(t.Context(), &sluicev1.DisconnectEndpointRequest{Endpoint: "bare.1", Network: "yard"})
	refused(t, err, NoInterface, codes.FailedPrecondition)
	_, err = attach("bare.2", &sluicev1.Connection{Network: "yard", Mac: "02:53:ac:1e:00:09"})
	refused(t, err, mesh.AddressTaken, codes.AlreadyExists)
	if _, err = attach("bare.2", &sluicev1.Connection{Network: "yard", Mac: "02:00:00:00:00:09"}); err != nil {
		t.Fatal(err)
	}
	_, err = attach("bare.3", &sluicev1.Connection{Network: "yard", Mac: "02:00:00:00:00:09"})
	refused(t, err, mesh.AddressTaken, codes.AlreadyExists)
	if _, err := a.services.UpdateService(t.Context(), &sluicev1.UpdateServiceRequest{Service: "bare", Networks: names("yard")}); err != nil {
		t.Fatal(err)
	}
	if e := a.endpoint("bare.1"); on(e) != "yard*" || e.GetAttachments()[0].GetConnected() {
		t.Errorf("on a network that its service uses too the endpoint has %v", e.GetAttachments())
	}
}

// What was asked of a service's network is over when the service leaves it, as the endpoint is off
// the network then; a connection of the endpoint's own stays.
func TestServiceLeavesNetwork(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	for name, subnet := range map[string]string{"yard": "172.30.0.0/24", "shed": "172.31.0.0/24", "attic": "172.29.0.0/24"} {
		a.bridge(name, subnet)
	}
	a.on("web", "yard", "shed")
	_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.1", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("x")},
		Networks: []*sluicev1.Connection{{Network: "yard", Aliases: []string{"db"}, Addresses: []string{"172.30.0.7"}}, {Network: "attic"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	update := func(networks ...string) string {
		t.Helper()
		if _, err := a.services.UpdateService(t.Context(), &sluicev1.UpdateServiceRequest{Service: "web", Networks: names(networks...)}); err != nil {
			t.Fatal(err)
		}
		return on(a.endpoint("web.1"))
	}
	if got := update("shed"); got != "attic* shed" {
		t.Errorf("its service is on shed alone, the endpoint is on %s", got)
	}
	if _, err := a.connect("web.1", &sluicev1.Connection{Network: "yard"}); err != nil {
		t.Fatal(err)
	}
	if got := update("shed", "yard"); got != "attic* shed yard" {
		t.Errorf("its service is on shed and yard, the endpoint is on %s", got)
	}
	if got := update("shed"); got != "attic* shed yard" {
		t.Errorf("it was connected to yard, and is on %s", got)
	}
}

// An address that was asked for on a network whose record is gone goes with the connection: the
// endpoint would wait for it for good, and get no other on any network.
func TestDisconnectedFromGoneNetwork(t *testing.T) {
	yard := &mesh.Network{ID: "b000000000000001", Subnet4: netip.MustParsePrefix("172.30.0.0/24"), Subnet6: netip.MustParsePrefix("fd30::/64")}
	own, gone := netip.MustParseAddr("172.30.0.7"), netip.MustParseAddr("172.31.0.7")
	e := &mesh.Endpoint{Fixed: []netip.Addr{own, gone}, Joined: []mesh.Joined{{Network: "b000000000000002"}}}
	got := disconnected(e, "b000000000000002", nil, &mesh.Snapshot{Networks: []*mesh.Network{yard}})
	if !slices.Equal(got.Fixed, []netip.Addr{own}) || len(got.Joined) != 0 {
		t.Errorf("it asks for %v on %v", got.Fixed, got.Joined)
	}
}
