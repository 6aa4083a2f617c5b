package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/footprint"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A node that was in use and is reset is as it was before an agent ever ran there,
// and the others go on without it.
func TestReset(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	testReset(t, "nft")
}

// TestResetIPVS is the same with what IPVS leaves.
func TestResetIPVS(t *testing.T) {
	needIPVS(t)
	testReset(t, "ipvs")
}

func testReset(t *testing.T, balancer string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := map[string][]string{}
	c, err := cluster.Start(t.Context(), cluster.Config{
		Sluice: program(t), Balancer: balancer, Workload: []string{self, "serve"}, Progress: t.Logf,
		Prepared: func(ctx context.Context, c *cluster.Cluster) error {
			for _, n := range c.Nodes {
				until(t, "the addresses of "+n.Name+" are no longer tentative", func() error { return tentative(ctx, n) })
				if before[n.Name], err = footprint.Take(ctx, n.RunDir(), n.Run); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	n1, n2 := c.Node("n1"), c.Node("n2")
	inUse(t, c, n2)
	refusedWhileRunning(t, n2)
	if err := n2.StopAgent(); err != nil {
		t.Fatal(err)
	}
	said, err := n2.Sluice(t.Context(), "reset", "--yes", "--data-dir", n2.DataDir(), "--run-dir", n2.RunDir())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "left") || strings.HasPrefix(line, "failed") {
			t.Errorf("reset: %s", line)
		}
	}
	after, err := footprint.Take(t.Context(), n2.RunDir(), n2.Run)
	if err != nil {
		t.Fatal(err)
	}
	const least = 500 // lines; the settings alone are more
	if diff := cmp.Diff(before["n2"], after); diff != "" || len(after) < least {
		t.Errorf("after a reset the host differs (-before +after):\n%s\n%s", diff, said)
	}
	for _, dir := range []string{n2.RunDir(), n2.DataDir()} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v, want it empty", dir, left, err)
		}
	}
	until(t, "n1 has forgotten n2", func() error {
		s, err := n1.Status(t.Context())
		if err != nil || len(s.GetPeers()) == 1 {
			return err
		}
		return fmt.Errorf("peers %v", s.GetPeers())
	})
	if got := endpointsOf(t, n1).GetEndpoints(); len(got) > 0 {
		t.Errorf("endpoints are left: %v", got)
	}
}

// tentative names addresses that the kernel does not use yet.
func tentative(ctx context.Context, n *cluster.Node) error {
	text, err := n.Run(ctx, "ip", "-6", "-o", "address", "show", "tentative")
	if err == nil && text != "" {
		err = errors.New(text)
	}
	return err
}

// inUse gives n an endpoint with interfaces on two networks.
func inUse(t *testing.T, c *cluster.Cluster, n *cluster.Node) {
	t.Helper()
	for _, args := range [][]string{
		{"network", "create", "blue"},
		{"service", "create", "web", "--network", "blue", "--publish", "8080:80/tcp", "--publish", "8080:80/udp"},
	} {
		if _, err := n.Sluice(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Run(t.Context(), n, "web", "web.2"); err != nil {
		t.Fatal(err)
	}
	until(t, "the kernel of "+n.Name+" holds web.2", func() error {
		if got := endpointsOf(t, n).GetEndpoints(); len(got) != 1 || len(got[0].GetAttachments()) != 2 {
			return fmt.Errorf("endpoints %v", got)
		}
		_, err := n.Sluice(t.Context(), "plan", "--diff")
		return err
	})
}

// refusedWhileRunning wants a reset beside the agent refused, with nothing changed.
func refusedWhileRunning(t *testing.T, n *cluster.Node) {
	t.Helper()
	args := []string{"reset", "--yes", "--data-dir", n.DataDir(), "--run-dir", n.RunDir()}
	refused(t, n, refusal{"", args, []int{1}, "stop it first"})
	refused(t, n, refusal{"", args[:1], []int{1}, "--yes"})
	if _, err := n.Sluice(t.Context(), "plan", "--diff"); err != nil {
		t.Errorf("after a refused reset: %v", err)
	}
}

func endpointsOf(t *testing.T, n *cluster.Node) *sluicev1.Service {
	t.Helper()
	s, err := n.Service(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for what takes a while on a slow machine.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain until %s: %v", what, err)
}
