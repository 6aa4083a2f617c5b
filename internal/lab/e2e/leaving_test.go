package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

const leavingPort = 8090

// testLeaving is an endpoint that drains and then goes, under flows that are open:
// they stay on it as long as it drains; when it has gone, datagrams reach another
// one at once and connections are reset, and nothing is met by silence.
func testLeaving(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	port := fmt.Sprintf("%d:80", leavingPort)
	mustRun(t, n1, "service", "create", "leaving", "--publish", port+"/tcp", "--publish", port+"/udp")
	for _, n := range []*cluster.Node{n2, n3} {
		if err := c.Run(t.Context(), n, "leaving", "leaving."+n.Name); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "both endpoints answer", func() error { return answering(c, n1, "leaving.n2", "leaving.n3") })
	open := flowsTo(t, c, n1, "leaving.n2")

	mustRun(t, n2, "endpoint", "drain", "leaving.n2")
	until(t, "the draining endpoint gets nothing new", func() error { return answering(c, n1, "leaving.n3") })
	for name, f := range open {
		if a, err := f.Ask(); err != nil || a.Name != "leaving.n2" {
			t.Errorf("%s: while its endpoint drains: %q, %v; want it to go on", name, a.Name, err)
		}
	}
	mustRun(t, n2, "endpoint", "detach", "leaving.n2")
	gone := time.Now()
	for name, f := range open {
		moved(t, name, f, gone)
	}
	kept := flowsTo(t, c, n1, "leaving.n3")
	mustRun(t, n3, "endpoint", "detach", "leaving.n3")
	for name, f := range kept {
		turnedAway(t, name, f)
	}
	mustRun(t, n1, "service", "rm", "leaving")
}

func mustRun(t *testing.T, n *cluster.Node, args ...string) {
	t.Helper()
	if _, err := n.Sluice(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

func leavingAt(n *cluster.Node, f cluster.Family) netip.AddrPort {
	return netip.AddrPortFrom(n.Addr(f), leavingPort)
}

// enough is so many flows or requests that each of two endpoints is among them.
const enough = 24

// answering says nil if exactly these endpoints answer new requests.
func answering(c *cluster.Cluster, n *cluster.Node, names ...string) error {
	client := probe.Client{Place: c.Client, Wait: time.Second}
	seen := map[string]bool{}
	for range enough {
		a, err := client.Get(leavingAt(n, cluster.IPv4))
		if err != nil {
			return err
		}
		seen[a.Name] = true
		if a, err = client.Ask(leavingAt(n, cluster.IPv6), 1); err != nil {
			return err
		}
		seen[a.Name] = true
	}
	for _, name := range names {
		if !seen[name] {
			return fmt.Errorf("%s does not answer, but %v", name, seen)
		}
	}
	if len(seen) != len(names) {
		return fmt.Errorf("%v answer", seen)
	}
	return nil
}

// flowsTo opens one flow of each protocol and family that the endpoint answers.
func flowsTo(t *testing.T, c *cluster.Cluster, n *cluster.Node, endpoint string) map[string]*probe.Flow {
	t.Helper()
	client := probe.Client{Place: c.Client, Wait: 2 * time.Second}
	flows := map[string]*probe.Flow{}
	for _, proto := range []string{"tcp", "udp"} {
		for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			name := proto + " " + string(family)
			for range enough {
				f, err := client.Open(proto, leavingAt(n, family))
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				t.Cleanup(func() { f.Close() })
				a, err := f.Ask()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if a.Name == endpoint {
					flows[name] = f
					break
				}
			}
			if flows[name] == nil {
				t.Fatalf("%s: %s does not answer", name, endpoint)
			}
		}
	}
	return flows
}

// movedLimit is much more than it takes: the log has the figure.
const movedLimit = 5 * time.Second

// moved asks until another endpoint answers or the connection is reset.
func moved(t *testing.T, name string, f *probe.Flow, gone time.Time) {
	t.Helper()
	for {
		a, err := f.Ask()
		after := time.Since(gone)
		switch outcome := probe.Outcome(err); {
		case outcome == "answered" && a.Name == "leaving.n3", outcome == "reset" && name[:3] == "tcp":
			t.Logf("%s: %s %s, %s after its endpoint had gone", name, outcome, a.Name, after.Round(time.Millisecond))
			return
		case outcome == "silence" || after > movedLimit || name[:3] == "tcp":
			t.Errorf("%s: %s %q %s after its endpoint had gone", name, outcome, a.Name, after)
			return
		}
	}
}

// turnedAway asks where nobody is left.
func turnedAway(t *testing.T, name string, f *probe.Flow) {
	t.Helper()
	began := time.Now()
	for time.Since(began) < movedLimit {
		_, err := f.Ask()
		if outcome := probe.Outcome(err); outcome == "refused" || outcome == "reset" {
			return
		} else if outcome == "silence" {
			t.Errorf("%s: silence where nobody is left", name)
			return
		}
	}
	t.Errorf("%s: still answered where nobody is left", name)
}
