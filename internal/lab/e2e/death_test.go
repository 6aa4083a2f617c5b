package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

const (
	enoughRequests = 10_000 // requests over all deaths together
	deathRate      = 250    // requests a second
	longDeath      = 5 * time.Minute
	answerIn       = 10 * time.Second // no answer is late only because the machine is slow
)

// testDeaths kills each agent in turn, with no warning, and starts it again, under
// requests that enter at every node.
func testDeaths(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	began := time.Now()
	l := send(t, c.Client.Space, load.Spec{Rate: deathRate, Wait: answerIn, Targets: fromClient(c, c.Nodes...)})
	for i, n := range c.Nodes {
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // longer than any round, so that it is missed
		if err := n.RestartAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Settle(t.Context()); err != nil {
			t.Fatalf("after the agent of %s was killed: %v", n.Name, err)
		}
		share := enoughRequests * (i + 1) / len(c.Nodes)
		for deadline := time.Now().Add(2 * time.Minute); len(l.Tally().Requests) < share && time.Now().Before(deadline); {
			time.Sleep(200 * time.Millisecond)
		}
	}
	if tally := whole(t, "an agent after the other killed", l, began); len(tally.Requests) < enoughRequests {
		t.Errorf("only %d requests, want %d", len(tally.Requests), enoughRequests)
	}
}

// testLongDeath leaves one agent dead for five minutes: its endpoints serve, are
// served, and a long transfer in each direction ends whole.
func testLongDeath(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	three, two := c.Endpoint("web.3"), c.Endpoint("web.2")
	if err := three.Node.KillAgent(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	in := send(t, c.Client.Space, load.Spec{Rate: deathRate / 10, Wait: answerIn, Targets: fromClient(c, c.Nodes...)})
	out := send(t, three.Space, load.Spec{Rate: deathRate / 10, Wait: answerIn, Targets: fromEndpoint(c, three, two, c.Node("n1"))})
	time.Sleep(30 * time.Second) // the others have long said that the node is silent
	transfers(t, c, three)
	time.Sleep(time.Until(began.Add(longDeath)))
	whole(t, "to endpoints while the agent of n3 is dead", in, began)
	whole(t, "from an endpoint of n3 while its agent is dead", out, began)
	if err := three.Node.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(t.Context()); err != nil {
		t.Errorf("after the agent came back: %v", err)
	}
}

// transfers are to, from and by one endpoint, all at once, of a minute each.
func transfers(t *testing.T, c *cluster.Cluster, e *cluster.Endpoint) {
	t.Helper()
	minute := probe.Transfer{Size: 6 << 20, Over: time.Minute}
	outside := probe.Client{Place: c.Client, Wait: answerIn}
	inside := probe.Client{Place: e, Wait: answerIn}
	mesh := func(n *cluster.Node, f cluster.Family) netip.AddrPort {
		return netip.AddrPortFrom(n.Addr(f), cluster.Published)
	}
	all := map[string]func() error{
		"from it, by another node": func() error { return outside.Pull(mesh(c.Node("n1"), cluster.IPv4), e.Name, minute) },
		"to it, by another node":   func() error { return outside.Push(mesh(c.Node("n2"), cluster.IPv6), e.Name, minute) },
		"from it, by its own node": func() error { return outside.Pull(mesh(e.Node, cluster.IPv6), e.Name, minute) },
		"by it, from the world": func() error {
			return inside.Pull(netip.AddrPortFrom(c.Client.V4, cluster.World), "world", minute)
		},
	}
	ended := make(chan error, len(all))
	for name, transfer := range all {
		go func() {
			err := transfer()
			if err == nil {
				t.Logf("a transfer of a minute %s ended whole", name)
			}
			ended <- err
		}()
	}
	for range all {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
