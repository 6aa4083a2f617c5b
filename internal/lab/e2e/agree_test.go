package e2e

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
)

var longAgree = flag.Bool("long", false, "split the cluster for 3 minutes and start its nodes 5 minutes apart, instead of seconds")

// TestAgree is one cluster's state through what real agents live through: a split with writes
// on both sides, all killed at once, nodes that leave and are removed, another cluster on the
// same link.
func TestAgree(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	c, done := populated(t, "nft")
	defer done()
	split, apart := 20*time.Second, 10*time.Second
	if *longAgree {
		split, apart = 3*time.Minute, 5*time.Minute
	}
	t.Run("Split", func(t *testing.T) { testSplit(t, c, split) })
	t.Run("AllKilled", func(t *testing.T) { testAllKilled(t, c, apart) })
	t.Run("Removed", func(t *testing.T) { testRemoved(t, c) })
	t.Run("TwoClusters", func(t *testing.T) { testTwoClusters(t, c) })
}

// agree tells why nodes do not say that just they agree; nil where they do.
func agree(t *testing.T, nodes ...*cluster.Node) error {
	t.Helper()
	for _, n := range nodes {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		a := s.GetAgreement()
		if a.GetSince() == nil || len(a.GetSilent()) > 0 || len(s.GetPeers()) != len(nodes)-1 {
			return fmt.Errorf("%s: %v, %d peers", n.Name, a, len(s.GetPeers()))
		}
	}
	return nil
}

// within waits until nodes agree and tells how long it took; more than limit is a failure.
func within(t *testing.T, limit time.Duration, what string, nodes ...*cluster.Node) {
	t.Helper()
	began := time.Now()
	until(t, what, func() error { return agree(t, nodes...) })
	took := time.Since(began)
	t.Logf("%s: all agree after %s", what, took.Round(10*time.Millisecond))
	if took > limit {
		t.Errorf("%s took %s, want at most %s", what, took, limit)
	}
}

// testSplit cuts n1 off from the others, who all go on writing.
func testSplit(t *testing.T, c *cluster.Cluster, split time.Duration) {
	t.Helper()
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	cut := fmt.Sprintf(`table inet cut {
		chain in { type filter hook prerouting priority -400; ip saddr { %[1]s, %[2]s } drop; }
		chain out { type filter hook output priority -400; ip daddr { %[1]s, %[2]s } drop; }
	}`, n2.V4, n3.V4)
	if _, err := n1.Run(t.Context(), "nft", cut); err != nil {
		t.Fatal(err)
	}
	until(t, "n1 hears nobody", func() error {
		s, err := n1.Status(t.Context())
		if err == nil && len(s.GetAgreement().GetSilent()) != 2 {
			err = fmt.Errorf("not heard are %v", s.GetAgreement().GetSilent())
		}
		return err
	})
	mustRun(t, n1, "service", "create", "left", "--publish", "8301:80")
	mustRun(t, n2, "service", "create", "right", "--publish", "8302:80")
	mustRun(t, n1, "service", "create", "both", "--publish", "8303:80")
	mustRun(t, n3, "service", "create", "both", "--publish", "8303:80")
	mustRun(t, n2, "service", "rm", "idle")
	time.Sleep(split)
	if _, err := n1.Run(t.Context(), "nft", "delete", "table", "inet", "cut"); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "after a split", n1, n2, n3)
	for _, n := range c.Nodes {
		list, err := n.Sluice(t.Context(), "service", "ls")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(list, "left") || !strings.Contains(list, "right") || strings.Contains(list, "idle") {
			t.Errorf("%s lists after the split:\n%s", n.Name, list)
		}
		status, err := n.Sluice(t.Context(), "status")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(status, "NameTaken") || !strings.Contains(status, "PortTaken") {
			t.Errorf("%s does not name the conflict of both:\n%s", n.Name, status)
		}
	}
}

// testAllKilled ends all agents at once, as a power cut does, and starts them one after the other.
func testAllKilled(t *testing.T, c *cluster.Cluster, apart time.Duration) {
	t.Helper()
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.KillAgent())
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes {
		if i > 0 {
			time.Sleep(apart)
		}
		if err := n.RestartAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 15*time.Second, "after all were killed", c.Nodes...)
}

// testRemoved removes n3 while its agent runs: it is out, and old and new tokens do not let
// the same node in again.
func testRemoved(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	old := token(t, n1)
	mustRun(t, n1, "node", "rm", "n3")
	within(t, 10*time.Second, "after n3 was removed", n1, n2)
	until(t, "n3 is in no cluster", func() error {
		s, err := n3.Status(t.Context())
		if err == nil && s.GetInCluster() {
			err = errors.New("it is")
		}
		return err
	})
	for text, want := range map[string]string{old: "made before a node was removed", token(t, n2): "was removed: reset it"} {
		r, err := n3.Try(t.Context(), "join", n1.V4.String(), "--token", text)
		if err != nil || r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("join again: exit status %d, %q, want %s; %v", r.Code, r.Stderr, want, err)
		}
	}
}

func token(t *testing.T, n *cluster.Node) string {
	t.Helper()
	text, err := n.Sluice(t.Context(), "token", "create", "--ttl", "10m")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(text)
	return fields[len(fields)-1]
}

// testTwoClusters makes the removed n3 a cluster of its own on the same link and port.
func testTwoClusters(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	mustRun(t, n3, "init")
	mustRun(t, n3, "service", "create", "foreign")
	r, err := n2.Try(t.Context(), "join", n3.V4.String(), "--token", token(t, n3))
	if err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "this node is in a cluster") {
		t.Errorf("n2 joins the other cluster: exit status %d, %q, %v", r.Code, r.Stderr, err)
	}
	for range 20 {
		if err := errors.Join(agree(t, n1, n2), agree(t, n3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	list, err := n1.Sluice(t.Context(), "service", "ls")
	if err != nil || strings.Contains(list, "foreign") {
		t.Errorf("n1 lists %s, %v", list, err)
	}
}
