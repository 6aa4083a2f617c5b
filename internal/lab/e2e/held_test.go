package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

const (
	heldPort = 8090
	oneLook  = 6 * time.Second // in which a node has looked, and done what follows
)

// testHeld publishes a port that a process on n2 has, and lets it go and others come.
func testHeld(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	leave := occupy(t, n2, "local")
	made, err := n1.Try(t.Context(), "service", "create", "shop", "--publish", "8090:80/tcp", "--publish", "8090:80/udp")
	if err != nil {
		t.Fatal(err)
	}
	defer withdraw(t, c)
	for _, front := range []string{"8090/tcp", "8090/udp"} {
		want := fmt.Sprintf("sluice: n2 does not answer on %s: held by %s\n", front, itself(t))
		if made.Code != 0 || !strings.Contains(made.Stderr, want) {
			t.Errorf("create ends with %d and says %q, want %q in it", made.Code, made.Stderr, want)
		}
	}
	defer serve(t, c, n3)()
	answer(t, c, n1, "shop.3", time.Minute)
	answer(t, c, n3, "shop.3", time.Minute)
	answer(t, c, n2, "local", oneLook)
	if !holds(t, n2) || holds(t, n1) || holds(t, n3) {
		t.Error("PortHeld is not the problem of n2 alone")
	}
	shop, err := n3.Service(t.Context(), "shop")
	if err != nil || len(shop.GetHeld()) != 2 || shop.GetHeld()[0].GetNode() != "n2" || shop.GetHeld()[0].GetHolder() != itself(t) {
		t.Errorf("n3 knows of %v, %v", shop.GetHeld(), err)
	}
	leave()
	answer(t, c, n2, "shop.3", oneLook)
	testLateComer(t, c, n1)
}

// testLateComer has a process bind a port that n captures: it gets nothing.
func testLateComer(t *testing.T, c *cluster.Cluster, n *cluster.Node) {
	t.Helper()
	leave := occupy(t, n, "late")
	defer leave()
	for _, c2 := range []struct {
		after string
		do    func() error
	}{
		{"somebody has bound it", func() error { return nil }},
		{"all rules were flushed", func() error { _, err := n.Run(t.Context(), "nft", "flush", "ruleset"); return err }},
		{"the agent was killed and started again", func() error {
			if err := n.KillAgent(); err != nil {
				return err
			}
			return n.RestartAgent(t.Context())
		}},
	} {
		if err := c2.do(); err != nil {
			t.Fatalf("%s: %v", c2.after, err)
		}
		answer(t, c, n, "shop.3", time.Minute) // again, where it was interrupted
		client := probe.Client{Place: c.Client, Wait: time.Second}
		for began := time.Now(); time.Since(began) < oneLook; time.Sleep(200 * time.Millisecond) {
			got, err := client.Get(netip.AddrPortFrom(n.V4, heldPort))
			if err != nil || got.Name != "shop.3" {
				t.Fatalf("after %s: %q answers, %v", c2.after, got.Name, err)
			}
		}
		if holds(t, n) {
			t.Errorf("after %s the port counts as held", c2.after)
		}
	}
}

// itself is this process as a node names who has a port.
func itself(t *testing.T) string {
	t.Helper()
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(name)), os.Getpid())
}

// occupy lets this process answer on the port of a host, until leave is called.
func occupy(t *testing.T, n *cluster.Node, name string) (leave func()) {
	t.Helper()
	var server *probe.Server
	err := n.Do(func() (err error) {
		server, err = probe.Listen(name, heldPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server %s: %v", name, err)
		}
	}
}

// serve runs shop.3 on n until stop is called.
func serve(t *testing.T, c *cluster.Cluster, n *cluster.Node) (stop func()) {
	t.Helper()
	until(t, "n3 knows the service", func() error { _, err := n.Service(t.Context(), "shop"); return err })
	args := append([]string{"run", "--service", "shop", "--name", "shop.3", "--"}, c.Workload...)
	cmd := n.Command(context.Background(), append(args, "shop.3")...)
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return func() { end(t, cmd) }
}

func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // its status is the workload's
}

// answer waits until name answers on the port of n, over TCP and UDP and both families,
// to a client that it sees as it is.
func answer(t *testing.T, c *cluster.Cluster, n *cluster.Node, name string, limit time.Duration) {
	t.Helper()
	client := probe.Client{Place: c.Client, Wait: time.Second}
	began := time.Now()
	until(t, name+" answers at "+n.Name, func() error {
		for _, f := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			to := netip.AddrPortFrom(n.Addr(f), heldPort)
			for proto, ask := range map[string]func() (probe.Answer, error){
				"tcp": func() (probe.Answer, error) { return client.Get(to) },
				"udp": func() (probe.Answer, error) { return client.Ask(to, 16) },
			} {
				got, err := ask()
				if err != nil || got.Name != name || got.Source.Addr() != c.Client.Addr(f) {
					return fmt.Errorf("%s %s: %+v, %w", proto, to, got, err)
				}
			}
		}
		return nil
	})
	if took := time.Since(began); took > limit {
		t.Errorf("%s answers at %s after %s, want at most %s", name, n.Name, took, limit)
	}
}

// holds tells whether the node's status has a held port.
func holds(t *testing.T, n *cluster.Node) bool {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.GetProblems() {
		if p.GetReason() == string(plan.PortHeld) {
			return true
		}
	}
	return false
}

// withdraw removes the service and waits until no node knows it.
func withdraw(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if _, err := c.Node("n1").Sluice(t.Context(), "service", "rm", "shop"); err != nil {
		t.Error(err)
	}
	for _, n := range c.Nodes {
		until(t, n.Name+" has forgotten the service", func() error {
			if _, err := n.Service(t.Context(), "shop"); err == nil {
				return fmt.Errorf("%s knows it", n.Name)
			}
			return nil
		})
	}
}
