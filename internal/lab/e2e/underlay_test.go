package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// TestUnderlay gives one node after the other another underlay address while all run: each
// stays the node that it was, and is reached, and reaches endpoints, at the new one.
func TestUnderlay(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	c, done := populatedAs(t, cluster.Config{Balancer: "nft", ByRoute: true})
	defer done()
	for i, n := range c.Nodes {
		before, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		readdress(t, n, netip.AddrFrom4([4]byte{192, 168, 50, byte(21 + i)}))
		until(t, "every node reaches both endpoints", func() error { return reached(c) })
		t.Logf("%s moved to %s: every node reaches both endpoints after %s", n.Name, n.V4, time.Since(began).Round(10*time.Millisecond))
		after, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if was, is := before.GetNode(), after.GetNode(); is.GetId() != was.GetId() || is.GetAddress() != n.V4.String() {
			t.Errorf("%s was %s at %s, is %s at %s", n.Name, was.GetId(), was.GetAddress(), is.GetId(), is.GetAddress())
		}
	}
	t.Run("Leave", func(t *testing.T) { testLeave(t, c) })
}

// testLeave lets n3 leave: it holds nothing of the cluster then, and n1 reaches what is left.
func testLeave(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n3 := c.Node("n3")
	mustRun(t, n3, "leave")
	left, err := n3.Run(t.Context(), "sh", "-c", "ip -o link; nft list tables; ls "+n3.RunDir()+"/netns")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(left, "sl") {
		t.Errorf("n3 holds after it left:\n%s", left)
	}
	until(t, "web.2 alone answers by n1 and n2", func() error {
		client := probe.Client{Place: c.Client, Wait: 300 * time.Millisecond}
		for i := range 20 {
			answer, err := client.Get(netip.AddrPortFrom(c.Nodes[i%2].V4, cluster.Published))
			if err != nil || answer.Name != "web.2" {
				return fmt.Errorf("answered by %s, %w", answer.Name, err)
			}
		}
		return nil
	})
}

// readdress takes a node's address away and gives it another, as a DHCP client does.
func readdress(t *testing.T, n *cluster.Node, addr netip.Addr) {
	t.Helper()
	for _, args := range [][]string{
		{"ip", "addr", "del", n.V4.String() + "/24", "dev", "eth0"},
		{"ip", "addr", "add", addr.String() + "/24", "dev", "eth0"},
		{"ip", "route", "replace", "default", "via", "192.168.50.1"},
	} {
		if _, err := n.Run(t.Context(), args[0], args[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	n.V4 = addr
}

// reached asks every node until both endpoints of web have answered by it. Of two that are
// drawn by lot one is missed once in 2^31 times.
func reached(c *cluster.Cluster) error {
	const asks = 32
	client := probe.Client{Place: c.Client, Wait: 300 * time.Millisecond}
	for _, n := range c.Nodes {
		served := map[string]bool{}
		for range asks {
			answer, err := client.Get(netip.AddrPortFrom(n.V4, cluster.Published))
			if err != nil {
				return fmt.Errorf("by %s: %w", n.Name, err)
			}
			if served[answer.Name] = true; len(served) == 2 {
				break
			}
		}
		if len(served) < 2 {
			return fmt.Errorf("by %s only %v", n.Name, served)
		}
	}
	return nil
}
