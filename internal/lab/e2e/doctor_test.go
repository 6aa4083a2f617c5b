package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
)

// testDoctor shows that nothing fails on a healthy node, that a route in the way is named, and
// that the repair after testRepair's flush is an event that names its culprit.
func testDoctor(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	if err := c.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	healthy, err := n1.Try(t.Context(), "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("doctor on n1:\n%s", healthy.Stdout)
	if healthy.Code != 0 {
		t.Errorf("exit status %d: %s", healthy.Code, healthy.Stderr)
	}
	if _, err := n1.Run(t.Context(), "ip", "route", "add", "blackhole", "169.254.77.128/25"); err != nil {
		t.Fatal(err)
	}
	ill, err := n1.Try(t.Context(), "doctor")
	if _, undone := n1.Run(t.Context(), "ip", "route", "del", "blackhole", "169.254.77.128/25"); undone != nil {
		t.Fatal(undone)
	}
	if err != nil || ill.Code != 1 || !strings.Contains(ill.Stdout, "169.254.77.128/25 (route") {
		t.Errorf("a route in the uplink: exit status %d, %v:\n%s", ill.Code, err, ill.Stdout)
	}
	flushed(t, n1)
}

// flushed looks for the event of the repair.
func flushed(t *testing.T, n *cluster.Node) {
	t.Helper()
	text, err := n.Sluice(t.Context(), "events", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for line := range strings.Lines(text) {
		var e struct{ Kind, Object, Text string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		repaired := e.Kind == "ObjectRepaired" && strings.HasPrefix(e.Object, "host: nft table inet")
		found = found || repaired && strings.Contains(e.Text, "changed by nft (pid ")
	}
	if !found {
		t.Errorf("no event tells of the flush:\n%s", text)
	}
}
