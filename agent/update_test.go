package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// shape is what an update can change, as text.
func shape(s *sluicev1.Service) string {
	text := s.GetScheduler()
	if s.GetAffinity() != nil {
		text += "," + s.GetAffinity().AsDuration().String()
	}
	text += " " + strings.Join(s.GetNetworks(), ",")
	for _, p := range s.GetPorts() {
		text += " " + mesh.PublishedPort{Proto: mesh.Proto(p.GetProtocol()), Published: uint16(p.GetPublished()), Target: uint16(p.GetTarget())}.String()
	}
	return text
}

func names(values ...string) *sluicev1.StringList { return &sluicev1.StringList{Values: values} }

func long(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func TestUpdateService(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	for _, n := range []string{"blue", "green"} {
		if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: n}); err != nil {
			t.Fatal(err)
		}
	}
	a.create("web", "7070:80")
	a.attach("web.1")
	for _, c := range []struct {
		req  *sluicev1.UpdateServiceRequest
		want string
		on   int // networks of the endpoint
	}{
		{&sluicev1.UpdateServiceRequest{}, "rr  7070:80/tcp", 1},
		{&sluicev1.UpdateServiceRequest{Publish: names()}, "rr ", 0},
		{&sluicev1.UpdateServiceRequest{PublishAdd: []string{"8080:80", "8080:80/udp"}}, "rr  8080:80/tcp 8080:80/udp", 1},
		{&sluicev1.UpdateServiceRequest{Scheduler: "mh", Networks: names("green", "blue")}, "mh blue,green 8080:80/tcp 8080:80/udp", 3},
		{&sluicev1.UpdateServiceRequest{PublishRm: []string{"8080:80/tcp"}, PublishAdd: []string{"8080:81"}}, "mh blue,green 8080:81/tcp 8080:80/udp", 3},
		{&sluicev1.UpdateServiceRequest{Publish: names("9000-9001:80-81"), Networks: names("blue")}, "mh blue 9000:80/tcp 9001:81/tcp", 2},
		{&sluicev1.UpdateServiceRequest{PublishAdd: []string{"22:22"}, Force: true}, "mh blue 22:22/tcp 9000:80/tcp 9001:81/tcp", 2},
		// A port that was forced once needs no force to stay.
		{&sluicev1.UpdateServiceRequest{Scheduler: "rr"}, "rr blue 22:22/tcp 9000:80/tcp 9001:81/tcp", 2},
		{&sluicev1.UpdateServiceRequest{Affinity: long(time.Hour)}, "rr,1h0m0s blue 22:22/tcp 9000:80/tcp 9001:81/tcp", 2},
		{&sluicev1.UpdateServiceRequest{Scheduler: "mh"}, "mh,1h0m0s blue 22:22/tcp 9000:80/tcp 9001:81/tcp", 2},
		{&sluicev1.UpdateServiceRequest{Affinity: long(0), Scheduler: "rr"}, "rr blue 22:22/tcp 9000:80/tcp 9001:81/tcp", 2},
		{&sluicev1.UpdateServiceRequest{Publish: names(), Networks: names()}, "rr ", 0},
	} {
		c.req.Service = "web"
		resp, err := a.services.UpdateService(t.Context(), c.req)
		if err != nil {
			t.Fatalf("%v: %v", c.req, err)
		}
		slices.Sort(resp.GetService().Networks)
		if got := shape(resp.GetService()); got != c.want {
			t.Errorf("%v: got %q, want %q", c.req, got, c.want)
		}
		if got := resp.GetService().GetEndpoints()[0].GetAttachments(); len(got) != c.on {
			t.Errorf("%v: the endpoint is on %v, want %d networks", c.req, got, c.on)
		}
		eventually(t, "n2 follows", func() bool {
			s, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
			slices.Sort(s.GetService().GetNetworks())
			return err == nil && shape(s.GetService()) == c.want
		})
	}
}

func TestUpdateServiceRefused(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.create("old", "9000:80")
	for name, c := range map[string]struct {
		req    *sluicev1.UpdateServiceRequest
		reason mesh.Reason
		code   codes.Code
	}{
		"unknown service":   {&sluicev1.UpdateServiceRequest{Service: "none"}, mesh.NotFound, codes.NotFound},
		"taken port":        {&sluicev1.UpdateServiceRequest{PublishAdd: []string{"9000:81"}}, mesh.PortTaken, codes.AlreadyExists},
		"taken by all":      {&sluicev1.UpdateServiceRequest{Publish: names("9000:81")}, mesh.PortTaken, codes.AlreadyExists},
		"own port":          {&sluicev1.UpdateServiceRequest{PublishAdd: []string{"8080:81"}}, mesh.PortTaken, codes.AlreadyExists},
		"not published":     {&sluicev1.UpdateServiceRequest{PublishRm: []string{"8080:81"}}, mesh.NotFound, codes.NotFound},
		"port of ssh":       {&sluicev1.UpdateServiceRequest{PublishAdd: []string{"22:22"}}, mesh.PortReserved, codes.InvalidArgument},
		"malformed SPEC":    {&sluicev1.UpdateServiceRequest{PublishAdd: []string{"x"}}, mesh.BadPublish, codes.InvalidArgument},
		"malformed SPEC rm": {&sluicev1.UpdateServiceRequest{PublishRm: []string{"x"}}, mesh.BadPublish, codes.InvalidArgument},
		"malformed of all":  {&sluicev1.UpdateServiceRequest{Publish: names("x")}, mesh.BadPublish, codes.InvalidArgument},
		"unknown network":   {&sluicev1.UpdateServiceRequest{Networks: names("red")}, mesh.NotFound, codes.NotFound},
		"ingress network":   {&sluicev1.UpdateServiceRequest{Networks: names("ingress")}, mesh.BadValue, codes.InvalidArgument},
		"port of gossip":    {&sluicev1.UpdateServiceRequest{PublishAdd: []string{"7956:80"}}, mesh.PortReserved, codes.InvalidArgument},
		"affinity too long": {&sluicev1.UpdateServiceRequest{Affinity: long(25 * time.Hour)}, mesh.BadValue, codes.InvalidArgument},
		"unknown scheduler": {&sluicev1.UpdateServiceRequest{Scheduler: "best"}, mesh.BadValue, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if c.req.Service == "" {
				c.req.Service = "web"
			}
			before := a.status().GetRevision()
			_, err := a.services.UpdateService(t.Context(), c.req)
			refused(t, err, c.reason, c.code)
			if after := a.status().GetRevision(); after != before {
				t.Errorf("the refused call changed the state: revision %d became %d", before, after)
			}
		})
	}
}

// A draining endpoint has weight 0 on every node and keeps its interfaces, also
// over a restart.
func TestDrainEndpoint(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	e := a.attach("web.1")
	eventually(t, "n2 balances to web.1", func() bool { return weights(b.machine.plan()) == "1 1" })
	_, err := b.endpoints.DrainEndpoint(t.Context(), &sluicev1.DrainEndpointRequest{Endpoint: "web.1"})
	refused(t, err, NotHere, codes.FailedPrecondition)
	_, err = a.endpoints.DrainEndpoint(t.Context(), &sluicev1.DrainEndpointRequest{Endpoint: "web.2"})
	refused(t, err, mesh.NotFound, codes.NotFound)
	for range 2 { // the second changes nothing
		resp, err := a.endpoints.DrainEndpoint(t.Context(), &sluicev1.DrainEndpointRequest{Endpoint: "web.1"})
		if err != nil || resp.GetEndpoint().GetState() != string(mesh.Draining) || len(resp.GetEndpoint().GetAttachments()) != 1 {
			t.Fatalf("got %v, %v", resp, err)
		}
		if got := weights(a.machine.plan()); got != "0 0" {
			t.Errorf("n1 has weights %s", got)
		}
	}
	eventually(t, "n2 gives it nothing new", func() bool { return weights(b.machine.plan()) == "0 0" })
	a.stop()
	a.start()
	eventually(t, "it drains after a restart", func() bool {
		return weights(a.machine.plan()) == "0 0" && a.machine.Pinned(plan.EndpointSandbox(e.GetId()))
	})
}

// weights are those of the backends in ingress-sbox.
func weights(p *plan.Plan) string {
	var list []string
	for _, s := range p.Sandboxes {
		if s.Name != plan.IngressSandbox {
			continue
		}
		for _, b := range s.Backends {
			list = append(list, string(rune('0'+b.Weight)))
		}
	}
	return strings.Join(list, " ")
}
