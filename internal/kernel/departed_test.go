package kernel_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// flow is one that goes on, from a place to an address.
func (n *oneNode) flow(from *space.Space, to netip.AddrPort) *probe.Flow {
	n.t.Helper()
	f, err := probe.Client{Place: from, Wait: 300 * time.Millisecond}.Open("udp", to)
	n.must(err)
	n.t.Cleanup(func() { f.Close() })
	return f
}

// answered asks until somebody answers, a few times at most: an error may be of an earlier datagram.
func answered(f *probe.Flow) string {
	for range 4 {
		if a, err := f.Ask(); err == nil {
			return a.Name
		}
	}
	return "nobody"
}

// A flow of datagrams that was there before its port was published on the mesh comes to the service
// all the same, and to the host again when the port is gone.
func TestFlowsFollowMeshPorts(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n := newOneNode(t, mesh.BalancerNFT)
	port := scene.Port(webPort, 80, mesh.UDP)
	web := n.world.Service("web", nil, port)
	n.serve(web, "web.1")
	publish := func(ports ...mesh.PublishedPort) {
		t.Helper()
		n.world.Change(web, func(s *mesh.Service) { s.Publish = ports })
		n.round()
	}
	publish(scene.Port(webPort+1, 80, mesh.UDP))
	flows := map[plan.Family]*probe.Flow{}
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		flows[f] = n.flow(n.client, netip.AddrPortFrom(nodeAddr(f), webPort))
	}
	for _, step := range []struct {
		when, want string
		ports      []mesh.PublishedPort
	}{
		{"not published", "nobody", nil},
		{"published", "web.1", []mesh.PublishedPort{port}},
		{"not published any more", "nobody", []mesh.PublishedPort{scene.Port(webPort+1, 80, mesh.UDP)}},
		{"published again", "web.1", []mesh.PublishedPort{port}},
	} {
		if step.ports != nil {
			publish(step.ports...)
		}
		for family, f := range flows {
			if got := answered(f); got != step.want {
				t.Errorf("%s: over %s %s answers, want %s", step.when, family, got, step.want)
			}
		}
	}
}
