package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/firewall"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/lab/table"
)

// guarded is a node with another program's firewall.
type guarded struct {
	node string
	deny string // a shell command: from then on it drops what is forwarded
	list string // a shell command: its own rules
}

func simple() []guarded {
	return []guarded{
		{"n1", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP", "iptables-nft -S; ip6tables-nft -S"},
		{"n2", "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP", "iptables-legacy -S; ip6tables-legacy -S"},
		{"n3", "nft 'table inet theirs { chain passing { type filter hook forward priority 10; policy accept; jump rest; }; chain rest { reject with icmpx admin-prohibited; }; }'", "nft -s list table inet theirs"},
	}
}

// Where others drop what is forwarded, every cell of the table is as expected; the
// administrator's own rule holds through everything; after a reset each program's
// rules are as it made them.
func TestOthers(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPTables, feature.LegacyIPTables)...)
	// No balancer has a part in what the host forwards.
	t.Run("Simple", func(t *testing.T) { testSimple(t, "nft") })
	t.Run("Programs", func(t *testing.T) { testPrograms(t, "nft") })
}

func testSimple(t *testing.T, balancer string) {
	t.Helper()
	before := map[string]string{}
	c := startGuarded(t, balancer, func(ctx context.Context, c *cluster.Cluster) error {
		for _, g := range simple() {
			n := c.Node(g.node)
			if _, err := n.Run(ctx, "sh", "-ec", g.deny); err != nil {
				return err
			}
			before[g.node] = listed(t, n, g.list)
		}
		return nil
	})
	t.Run("Mesh", func(t *testing.T) { testMesh(t, c) })
	t.Run("User", func(t *testing.T) { testUser(t, c) })
	resetAll(t, c, simple(), before)
}

// testPrograms is the table again, each node with a program's own firewall, as it comes: dockerd
// on the entry node, ufw and firewalld where the endpoints are. What other nodes have
// to reach was opened, as the manual says.
func testPrograms(t *testing.T, balancer string) {
	t.Helper()
	var all []guarded
	before := map[string]string{}
	c := startGuarded(t, balancer, func(ctx context.Context, c *cluster.Cluster) error {
		for name, start := range map[string]func(context.Context, *space.Space, string) (*firewall.Firewall, error){
			"n1": firewall.Docker, "n2": firewall.UFW, "n3": firewall.Firewalld,
		} {
			n := c.Node(name)
			f, err := start(ctx, n.Space, t.TempDir())
			if err != nil {
				return err
			}
			t.Cleanup(func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			})
			for port, protos := range map[uint16][]string{4789: {"udp"}, 7956: {"tcp", "udp"}} {
				for _, proto := range protos {
					if err := f.Open(ctx, port, proto); err != nil {
						return err
					}
				}
			}
			all = append(all, guarded{node: name, list: f.List()})
			before[name] = listed(t, n, f.List())
		}
		return nil
	})
	cells := table.Run(table.All(c))
	for _, cell := range cells.Wrong() {
		// A port that nobody publishes is the host's own, and what its firewall says of
		// it holds: ufw says nothing, firewalld prohibits.
		theirs := strings.Contains(cell.To, "nothing published") &&
			(strings.HasPrefix(cell.To, "n2 ") && cell.Got == "silence" || strings.HasPrefix(cell.To, "n3 ") && cell.Got == "unreachable")
		if !theirs {
			t.Errorf("%s: seen %q, want %q", cell.Name(), cell.Got, cell.Want)
		}
	}
	resetAll(t, c, all, before)
}

// startGuarded is a populated cluster whose nodes were prepared before an agent ran.
func startGuarded(t *testing.T, balancer string, prepared func(context.Context, *cluster.Cluster) error) *cluster.Cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var c *cluster.Cluster
	t.Cleanup(func() { // before anything else is registered: what runs in its hosts is stopped first
		if c == nil {
			return
		}
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	c, err = cluster.Start(t.Context(), cluster.Config{
		Sluice: program(t), Balancer: balancer, Workload: []string{self, "serve"}, Progress: t.Logf, Prepared: prepared,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Populate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func listed(t *testing.T, n *cluster.Node, command string) string {
	t.Helper()
	text, err := n.Run(t.Context(), "sh", "-ec", command)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") { // iptables warns of the other iptables
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// testUser has the administrator drop one client at n1, which holds through a flush of
// all rules, a death of the agent, and both at once; everybody else is served.
func testUser(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	four, six := netip.AddrPortFrom(n1.V4, cluster.Published), netip.AddrPortFrom(n1.V6, cluster.Published)
	rule := fmt.Sprintf("nft add rule inet sluice-user user ip saddr %s tcp dport %d drop", c.Client.V4, cluster.Published)
	if _, err := n1.Run(t.Context(), "sh", "-ec", rule); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(n1.RunDir(), "user.nft")
	until(t, "the rule is kept", func() error {
		text, err := os.ReadFile(kept)
		if err == nil && !strings.Contains(string(text), c.Client.V4.String()) {
			err = fmt.Errorf("%s holds %s", kept, text)
		}
		return err
	})
	flush := func() error {
		_, err := n1.Run(t.Context(), "sh", "-ec", "nft flush ruleset; iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP")
		return err
	}
	for _, event := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"flush", flush},
		{"restart", func() error {
			if err := n1.KillAgent(); err != nil {
				return err
			}
			return n1.RestartAgent(t.Context())
		}},
		{"flush while no agent runs", func() error {
			if err := n1.KillAgent(); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			return n1.RestartAgent(t.Context())
		}},
		{"our own table alone", func() error { _, err := n1.Run(t.Context(), "nft", "delete", "table", "inet", "sluice"); return err }},
	} {
		t.Run(event.name, func(t *testing.T) { staysDropped(t, c, four, six, event.do) })
	}
	if _, err := n1.Run(t.Context(), "nft", "flush", "chain", "inet", "sluice-user", "user"); err != nil {
		t.Fatal(err)
	}
	until(t, "the client is served again", func() error {
		_, err := probe.Client{Place: c.Client, Wait: time.Second}.Get(four)
		return err
	})
}

// staysDropped wants no answer for the dropped client from before the event until others
// were served again for a while.
func staysDropped(t *testing.T, c *cluster.Cluster, dropped, served netip.AddrPort, event func() error) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		impatient, answers := probe.Client{Place: c.Client, Wait: 50 * time.Millisecond}, 0
		for {
			select {
			case <-stop:
				done <- answers
				return
			default:
				if _, err := impatient.Get(dropped); err == nil {
					answers++
				}
			}
		}
	}()
	err := event()
	began := time.Now()
	inARow := 0
	for inARow < 20 && time.Since(began) < time.Minute {
		if _, err := (probe.Client{Place: c.Client, Wait: time.Second}).Get(served); err == nil {
			inARow++
		} else {
			inARow = 0
		}
	}
	close(stop)
	if answers := <-done; err != nil || answers > 0 || inARow < 20 {
		t.Errorf("%v; the dropped client had %d answers, the other %d in a row", err, answers, inARow)
	}
	t.Logf("the others are served again %s after it", time.Since(began).Round(time.Millisecond))
}

// resetAll resets the nodes one after the other.
func resetAll(t *testing.T, c *cluster.Cluster, all []guarded, before map[string]string) {
	t.Helper()
	for _, g := range all {
		n := c.Node(g.node)
		if with := listed(t, n, g.list); with == before[g.node] {
			t.Errorf("%s: nothing was let through by us", g.node)
		}
		if err := n.StopAgent(); err != nil {
			t.Fatal(err)
		}
		said, err := n.Sluice(t.Context(), "reset", "--yes", "--data-dir", n.DataDir(), "--run-dir", n.RunDir())
		if err != nil || strings.Contains(said, "failed") {
			t.Errorf("%s: reset: %v: %s", g.node, err, said)
		}
		if diff := cmp.Diff(before[g.node], listed(t, n, g.list)); diff != "" {
			t.Errorf("%s: after a reset its rules differ (-before +after):\n%s", g.node, diff)
		}
	}
}
