package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/load"
)

const (
	soloPort   = 8090 // of a service with one endpoint
	switchRate = 60   // requests a second
)

// TestSwitchBalancer gives every node in turn the other balancer and then the first one
// again, under requests on new connections, none of which may fail. What becomes of
// connections that are open at that moment is told, and asked for where a service has one
// endpoint: they go on.
func TestSwitchBalancer(t *testing.T) {
	feature.NeedSteady(t, append(feature.Mesh(), feature.IPVS)...)
	c, done := populated(t, "ipvs")
	defer done()
	if _, err := c.Nodes[0].Sluice(t.Context(), "service", "create", "solo", "--publish", "8090:80/tcp", "--publish", "8090:80/udp"); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), c.Node("n3"), "solo", "solo.3"); err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"nft", "ipvs"} {
		began := time.Now()
		fresh, kept := switchTargets(c)
		anew := send(t, c.Client.Space, load.Spec{Rate: switchRate, Wait: answerIn, Targets: fresh})
		open := send(t, c.Client.Space, load.Spec{Rate: switchRate, Wait: answerIn, Targets: kept})
		time.Sleep(2 * time.Second)
		for _, n := range c.Nodes {
			if err := n.SwitchBalancer(t.Context(), to); err != nil {
				t.Fatal(err)
			}
			if err := c.Settle(t.Context()); err != nil {
				t.Fatalf("after %s has %s: %v", n.Name, to, err)
			}
			if status, err := n.Status(t.Context()); err != nil || status.GetBalancer() != to {
				t.Fatalf("%s says it has balancer %q, %v; want %q", n.Name, status.GetBalancer(), err, to)
			}
			time.Sleep(2 * time.Second)
		}
		tally, err := open.Stop()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s, on flows that were open: %d of %d requests failed\n%s", to, len(tally.Failed()), len(tally.Requests), tally.Describe(began))
		whole(t, "to "+to+", on new flows", anew, began)
	}
}

// switchTargets are all nodes, with a service of two endpoints and one of one.
func switchTargets(c *cluster.Cluster) (fresh, kept []load.Target) {
	for _, n := range c.Nodes {
		for _, f := range families() {
			all := fromClient(c, n)
			solo := netip.AddrPortFrom(n.Addr(f), soloPort)
			for _, target := range append(all, ways("client -> "+solo.String(), solo, c.Client.Addr(f), "solo.3")...) {
				if target.Flow == load.Fresh {
					fresh = append(fresh, target)
				} else {
					kept = append(kept, target)
				}
			}
		}
	}
	return fresh, kept
}
