package agent

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// attachAt attaches to a service with addresses.
func (a *testAgent) attachAt(service, name string, addrs ...string) (*sluicev1.Endpoint, error) {
	resp, err := a.endpoints.AttachEndpoint(a.tb.Context(), &sluicev1.AttachEndpointRequest{
		Service: service, Name: name, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns-" + name)}, Addresses: addrs,
	})
	return resp.GetEndpoint(), err
}

// An address that is asked for is had, kept over a restart, refused to others with a reason, and
// given again to the same service at once.
func TestFixedAddress(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "blue", Subnet: "10.9.0.0/20"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"db", "web"} {
		if _, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: name, Networks: []string{"blue"}}); err != nil {
			t.Fatal(err)
		}
	}
	const want = "10.9.3.5"
	e, err := a.attachAt("db", "db.1", want)
	if err != nil || !slices.Contains(e.GetAttachments()[0].GetAddresses(), want) || !slices.Equal(e.GetFixed(), []string{want}) {
		t.Fatalf("%v, %v", e, err)
	}
	_, err = a.attachAt("web", "web.1", want)
	refused(t, err, mesh.AddressTaken, codes.AlreadyExists)
	_, err = a.attachAt("web", "web.2", "10.8.0.1")
	refused(t, err, mesh.BadAddress, codes.InvalidArgument)
	_, err = a.attachAt("web", "web.3", "not one")
	refused(t, err, mesh.BadAddress, codes.InvalidArgument)
	eventually(t, "n2 knows the block", func() bool {
		_, err := b.attachAt("web", "web.4", "10.9.3.6")
		return err != nil && strings.Contains(err.Error(), `node "n1" gives the addresses of`)
	})
	a.stop()
	a.start()
	eventually(t, "the kernel is as before", func() bool {
		return strings.Contains(a.machine.plan().Text(), want+"/32") && strings.Contains(a.machine.plan().Text(), plan.EndpointSandbox(e.GetId()))
	})
	if _, err := a.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "db.1"}); err != nil {
		t.Fatal(err)
	}
	_, err = a.attachAt("web", "web.5", want)
	refused(t, err, mesh.AddressRests, codes.FailedPrecondition)
	if _, err := a.attachAt("db", "db.2", want); err != nil {
		t.Error(err)
	}
}

// A network that grows keeps what has an address, and both nodes lead to what is added.
func TestUpdateNetwork(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "blue", Subnet: "10.9.0.0/24"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: "web", Networks: []string{"blue"}}); err != nil {
		t.Fatal(err)
	}
	before := a.attach("web.1")
	update := func(subnets ...string) (*sluicev1.UpdateNetworkResponse, error) {
		return a.networks.UpdateNetwork(t.Context(), &sluicev1.UpdateNetworkRequest{Network: "blue", AddSubnets: subnets})
	}
	for _, c := range []struct {
		subnets []string
		reason  mesh.Reason
		code    codes.Code
	}{
		{nil, mesh.BadValue, codes.InvalidArgument},
		{[]string{"10.7.0.1/24"}, mesh.BadAddress, codes.InvalidArgument},
		{[]string{"10.9.0.0/20"}, mesh.SubnetTaken, codes.AlreadyExists},
		{[]string{"10.7.0.0/24", "10.7.0.0/20"}, mesh.SubnetTaken, codes.AlreadyExists},
		{[]string{"198.18.0.0/20"}, mesh.SubnetTaken, codes.AlreadyExists},
		{[]string{"10.7.0.0/30"}, mesh.BadAddress, codes.InvalidArgument},
	} {
		_, err := update(c.subnets...)
		refused(t, err, c.reason, c.code)
	}
	resp, err := update("10.7.0.0/24", "fd12:3456::/48")
	if err != nil || !slices.Equal(resp.GetNetwork().GetSubnets()[2:], []string{"10.7.0.0/24", "fd12:3456::/48"}) {
		t.Fatalf("%v, %v", resp, err)
	}
	eventually(t, "n2 gives an address of what was added", func() bool {
		_, err := b.attachAt("web", "web.2", "10.7.0.5")
		return err == nil
	})
	eventually(t, "n1 leads there", func() bool {
		text := a.machine.plan().Text()
		return strings.Contains(text, "10.7.0.0/26") && strings.Contains(text, "unreachable 10.7.0.0/24") && strings.Contains(text, "unreachable fd12:3456::/48")
	})
	list, err := a.endpoints.ListEndpoints(t.Context(), &sluicev1.ListEndpointsRequest{})
	if err != nil || !slices.Equal(list.GetEndpoints()[0].GetAttachments()[0].GetAddresses(), before.GetAttachments()[0].GetAddresses()) {
		t.Errorf("web.1 was %v, is %v, %v", before, list, err)
	}
}
