package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

const (
	// Much more than it takes, as a virtual machine that shares its processor may need
	// seconds to start the nft program. The log has the figure.
	outageLimit = 10 * time.Second
	inARow      = 20 // answers after which the port counts as back
)

// testRepair takes all rules of a node away under requests: the agent hears it and puts
// them back. What IPVS holds goes without a word, and is found at the next look.
func testRepair(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	outage(t, c, n1.Space, "nft", "flush", "ruleset")
	if c.Balancer == "ipvs" {
		outage(t, c, n1.Ingress, "ipvsadm", "-C")
	}
}

// outage runs a command that takes something of n1 away, and waits for its repair.
func outage(t *testing.T, c *cluster.Cluster, where *space.Space, program string, args ...string) {
	t.Helper()
	n1 := c.Node("n1")
	before, err := n1.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := probe.Client{Place: c.Client, Wait: time.Second}
	port := netip.AddrPortFrom(n1.V4, cluster.Published)
	if _, err := client.Get(port); err != nil {
		t.Fatalf("before: %v", err)
	}
	if _, err := where.Run(t.Context(), program, args...); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	answers, failed := 0, 0
	var last time.Duration // when an answer last failed
	for answers < inARow && time.Since(began) < 2*outageLimit {
		if _, err := client.Get(port); err != nil {
			answers, failed, last = 0, failed+1, time.Since(began)
		} else {
			answers++
		}
	}
	t.Logf("%s %v on n1: %d requests failed, the last %s after it", program, args, failed, last.Round(time.Millisecond))
	if answers < inARow || last > outageLimit {
		t.Errorf("out for %s, want at most %s", last, outageLimit)
	}
	until(t, "the repair is counted", func() error {
		after, err := n1.Status(t.Context())
		if err == nil && after.GetRepairs() <= before.GetRepairs() {
			err = fmt.Errorf("%d repairs are counted, %d before", after.GetRepairs(), before.GetRepairs())
		}
		return err
	})
}
