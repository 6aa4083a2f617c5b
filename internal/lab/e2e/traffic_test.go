package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// ways are all ways to ask: over TCP and UDP, on new flows and on kept ones.
func ways(name string, at netip.AddrPort, sees netip.Addr, by ...string) []load.Target {
	var targets []load.Target
	for _, network := range []string{"tcp", "udp"} {
		for _, flow := range []load.Flow{load.Fresh, load.Kept} {
			targets = append(targets, load.Target{
				Name: fmt.Sprintf("%s %s %s", name, network, flow), Network: network, Flow: flow, Addr: at, By: by, Sees: sees,
			})
		}
	}
	return targets
}

func families() []cluster.Family { return []cluster.Family{cluster.IPv4, cluster.IPv6} }

// fromClient asks every one of the nodes from outside.
func fromClient(c *cluster.Cluster, nodes ...*cluster.Node) []load.Target {
	var targets []load.Target
	for _, n := range nodes {
		for _, f := range families() {
			at := netip.AddrPortFrom(n.Addr(f), cluster.Published)
			targets = append(targets, ways("client -> "+at.String(), at, c.Client.Addr(f), "web.2", "web.3")...)
		}
	}
	return targets
}

// fromEndpoint has an endpoint ask the mesh at another node, its peer on their
// own network, and the world outside.
func fromEndpoint(c *cluster.Cluster, e, peer *cluster.Endpoint, entry *cluster.Node) []load.Target {
	var targets []load.Target
	add := func(to netip.AddrPort, sees netip.Addr, by ...string) {
		targets = append(targets, ways(e.Name+" -> "+to.String(), to, sees, by...)...)
	}
	for _, f := range families() {
		add(netip.AddrPortFrom(entry.Addr(f), cluster.Published), e.Node.Addr(f), "web.2", "web.3")
		add(netip.AddrPortFrom(peer.On("blue", f), probe.TargetPort), e.On("blue", f), peer.Name)
		add(netip.AddrPortFrom(c.Client.Addr(f), cluster.World), e.Node.Addr(f), "world")
	}
	return targets
}

// send starts a load, which the end of the test stops where it did not.
func send(t *testing.T, from *space.Space, s load.Spec) *load.Load {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l, err := load.Start(from, []string{self, "load"}, s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// whole wants every request to have been answered, and says how fast.
func whole(t *testing.T, name string, l *load.Load, began time.Time) load.Tally {
	t.Helper()
	tally, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d requests, %.0f a second, %d failed, the slowest took %s, the longest gap was %s", name,
		len(tally.Requests), tally.Rate(), len(tally.Failed()), tally.Slowest().Round(time.Millisecond), tally.Gap(began).Round(time.Millisecond))
	if len(tally.Failed()) > 0 {
		t.Errorf("%s: %d of %d requests failed, counted from the beginning:\n%s", name, len(tally.Failed()), len(tally.Requests), tally.Describe(began))
	}
	return tally
}
