package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

const sctpPort = 8084

// TestSCTP publishes a port over SCTP: it answers on every node, with both balancers, and
// the endpoint sees the client.
func TestSCTP(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS, feature.SCTP)...)
	c, done := populated(t, "ipvs")
	defer done()
	if _, err := c.Node("n1").Sluice(t.Context(), "service", "update", "web", "--publish-add", "8084:80/sctp"); err != nil {
		t.Fatal(err)
	}
	for _, balancer := range []string{"ipvs", "nft"} {
		if c.Balancer != balancer {
			if err := c.Switch(t.Context(), balancer); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Run(balancer, func(t *testing.T) { testSCTP(t, c) })
	}
}

func testSCTP(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, name := range []string{"web.2", "web.3"} {
		s, err := probe.ServeSCTP(c.Endpoint(name), name, probe.TargetPort)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	client := probe.Client{Place: c.Client.Space, Wait: 5 * time.Second}
	for _, n := range c.Nodes {
		for _, family := range families() {
			to := netip.AddrPortFrom(n.Addr(family), sctpPort)
			served := map[string]int{}
			for range 12 {
				answer, err := client.AskSCTP(to)
				if err != nil {
					t.Errorf("%s: %s", to, probe.Outcome(err))
					break
				}
				if answer.Source.Addr() != c.Client.Addr(family) {
					t.Errorf("%s: %s saw %s, not the client", to, answer.Name, answer.Source)
				}
				served[answer.Name]++
			}
			t.Logf("%s: served by %v", to, served)
			if len(served) < 2 {
				t.Errorf("%s: served by %v only", to, served)
			}
		}
	}
	if answer, err := client.AskSCTP(netip.AddrPortFrom(c.Node("n1").V4, sctpPort+1)); err == nil {
		t.Errorf("a port that nobody publishes answers: %+v", answer)
	}
}
