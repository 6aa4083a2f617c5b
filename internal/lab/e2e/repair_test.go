package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

const (
	// Much more than it takes, as a virtual machine that shares its processor may need
	// seconds to start the nft program. The log has the figure.
	outageLimit = 10 * time.Second
	inARow      = 20 // answers after which the port counts as back
)

// testRepair flushes all rules of a node under requests: the agent hears it and
// puts them back.
func testRepair(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	before, err := n1.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := probe.Client{Place: c.Client, Wait: time.Second}
	port := netip.AddrPortFrom(n1.V4, cluster.Published)
	if _, err := client.Get(port); err != nil {
		t.Fatalf("before the flush: %v", err)
	}
	if _, err := n1.Run(t.Context(), "nft", "flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	answers, failed := 0, 0
	var outage time.Duration // until the last answer that failed
	for answers < inARow {
		if _, err := client.Get(port); err != nil {
			answers, failed, outage = 0, failed+1, time.Since(began)
		} else {
			answers++
		}
		if time.Since(began) > 2*outageLimit {
			break
		}
	}
	t.Logf("nft flush ruleset on n1: %d requests failed, the last %s after it", failed, outage.Round(time.Millisecond))
	if answers < inARow || outage > outageLimit {
		t.Errorf("out for %s, want at most %s", outage, outageLimit)
	}
	after, err := n1.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.GetRepairs() <= before.GetRepairs() {
		t.Errorf("%d repairs are counted, %d before", after.GetRepairs(), before.GetRepairs())
	}
}
