package agent

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// Each verb that gives a name refuses one that would be found for another's, names that one, and
// does nothing.
func TestShadowsAreRefused(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.bridge("yard", "172.30.0.0/24")
	a.bridge("lawn", "172.31.0.0/24")
	a.bridge("glade", "172.29.0.0/24")
	for _, s := range []*sluicev1.CreateServiceRequest{{Name: "web", Stack: "prod"}, {Name: "api"}, {Name: "api.lawn"}} {
		s.Networks = []string{"yard"}
		if _, err := a.services.CreateService(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	a.attachTo("api", "api.1")
	create := func(name, stack string, aliases ...string) error {
		_, err := a.services.CreateService(t.Context(), &sluicev1.CreateServiceRequest{Name: name, Stack: stack, Aliases: aliases})
		return err
	}
	update := func(req *sluicev1.UpdateServiceRequest) error {
		_, err := a.services.UpdateService(t.Context(), req)
		return err
	}
	attach := func(name string, aliases ...string) error {
		_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
			Service: "api", Name: name, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns-" + name)},
			Networks: []*sluicev1.Connection{{Network: "yard", Aliases: aliases}},
		})
		return err
	}
	connect := func(network string, aliases ...string) error {
		_, err := a.connect("api.1", &sluicev1.Connection{Network: network, Aliases: aliases})
		return err
	}
	before := a.status().GetRevision()
	for what, tt := range map[string]struct {
		err   error
		other string
	}{
		"create":            {create("web.prod", ""), `service "web" of stack "prod"`},
		"create an alias":   {create("more", "", "tasks.api"), `service "api"`},
		"create in stack":   {create("api.1", ""), `endpoint "api.1"`},
		"update aliases":    {update(&sluicev1.UpdateServiceRequest{Service: "api", Aliases: names("web.prod")}), `service "web" of stack "prod"`},
		"update the stack":  {update(&sluicev1.UpdateServiceRequest{Service: "api", Stack: new("lawn")}), `service "api.lawn"`},
		"update networks":   {update(&sluicev1.UpdateServiceRequest{Service: "api", Networks: names("lawn")}), `service "api.lawn"`},
		"attach":            {attach("tasks.api"), `service "api"`},
		"attach an alias":   {attach("api.2", "api.1"), `endpoint "api.1"`},
		"connect":           {connect("glade", "web.prod"), `service "web" of stack "prod"`},
		"connect one of it": {connect("lawn"), `service "api.lawn"`},
	} {
		refused(t, tt.err, mesh.NameShadows, codes.AlreadyExists)
		if said := grpcstatus.Convert(tt.err).Message(); !strings.Contains(said, tt.other) {
			t.Errorf("%s: %q does not name %s", what, said, tt.other)
		}
	}
	if after := a.status().GetRevision(); after != before {
		t.Errorf("what is refused made revision %d of %d", after, before)
	}
	if err := connect("glade", "web"); err != nil {
		t.Errorf("an alias outside the stack of its like: %v", err)
	}
}
