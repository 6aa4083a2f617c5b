package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

const (
	oneWayPort  = 8093
	oneWayMoved = time.Second // from the end of the detach to the first datagram at another endpoint
)

// testOneWay is who sends datagrams and never reads one, as a syslog client: nothing tells
// it that its endpoint has gone, and its flow never ends by itself. Another endpoint hears it.
func testOneWay(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	mustRun(t, n1, "service", "create", "oneway", "--publish", fmt.Sprintf("%d:%d/udp", oneWayPort, probe.HiddenPort))
	heard := map[string]func() int{}
	for _, n := range []*cluster.Node{c.Node("n2"), c.Node("n3")} {
		name := "oneway." + n.Name
		if err := c.Run(t.Context(), n, "oneway", name); err != nil {
			t.Fatal(err)
		}
		heard[name] = hearing(t, n, name)
	}
	for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
		stop := tellAlways(t, c, n1, family)
		defer stop()
		first, last := whoHears(t, heard)
		node := c.Node(first[len("oneway."):])
		before := heard[last]()
		mustRun(t, node, "endpoint", "detach", first)
		gone := time.Now()
		until(t, last+" hears who sends one way", func() error {
			if heard[last]() == before {
				return fmt.Errorf("nothing heard after %s", time.Since(gone))
			}
			return nil
		})
		took := time.Since(gone)
		t.Logf("%s: %s hears it %s after %s has gone", family, last, took.Round(time.Millisecond), first)
		if took > oneWayMoved {
			t.Errorf("%s: it took %s, want at most %s", family, took, oneWayMoved)
		}
		stop()
		if err := c.Run(t.Context(), node, "oneway", first); err != nil {
			t.Fatal(err)
		}
		heard[first] = hearing(t, node, first)
	}
	mustRun(t, n1, "service", "rm", "oneway")
}

// tellAlways sends one flow until stop, which waits for its end.
func tellAlways(t *testing.T, c *cluster.Cluster, n *cluster.Node, family cluster.Family) (stop func()) {
	t.Helper()
	who := probe.Client{Place: c.Client, Wait: time.Second}
	f, err := who.Open("udp", netip.AddrPortFrom(n.Addr(family), oneWayPort))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			time.Sleep(10 * time.Millisecond)
			_ = f.Tell(fmt.Sprintf("%s-%d", family, i)) // refused while nobody is there yet: the next one is sent all the same
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done; f.Close() })
}

// whoHears tells which of two endpoints hears the flow, and which does not.
func whoHears(t *testing.T, heard map[string]func() int) (first, last string) {
	t.Helper()
	before := map[string]int{}
	for name, count := range heard {
		before[name] = count()
	}
	until(t, "somebody hears who sends one way", func() error {
		for name, count := range heard {
			if count() > before[name] {
				first = name
				return nil
			}
		}
		return fmt.Errorf("nobody does")
	})
	for name := range heard {
		if name != first {
			last = name
		}
	}
	return first, last
}

// hearing counts what an endpoint has heard, asked inside it.
func hearing(t *testing.T, n *cluster.Node, name string) func() int {
	t.Helper()
	var where *space.Space
	var own netip.Addr
	until(t, name+" is there", func() error {
		s, err := n.Service(t.Context(), "oneway")
		if err != nil {
			return err
		}
		for _, e := range s.GetEndpoints() {
			if e.GetName() == name && len(e.GetAttachments()) > 0 && len(e.GetAttachments()[0].GetAddresses()) > 0 {
				if own, err = netip.ParseAddr(e.GetAttachments()[0].GetAddresses()[0]); err != nil {
					return err
				}
				where, err = n.Sandbox(t.Context(), plan.EndpointSandbox(e.GetId()))
				return err
			}
		}
		return fmt.Errorf("not yet")
	})
	t.Cleanup(func() { where.Close() })
	client := probe.Client{Place: where, Wait: time.Second}
	total, seen := 0, map[string]bool{}
	return func() int {
		words, err := client.Heard(netip.AddrPortFrom(own, probe.TargetPort))
		if err != nil {
			return total
		}
		for _, w := range words {
			if !seen[w] {
				seen[w] = true
				total++
			}
		}
		return total
	}
}
