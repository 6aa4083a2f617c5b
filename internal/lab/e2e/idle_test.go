package e2e

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// TestIdle leaves connections silent for longer than IPVS's own limit of 15 minutes
// (moby#31208), and than the two hours of TCP's first keepalive. No agent runs meanwhile.
func TestIdle(t *testing.T) {
	feature.NeedJumps(t, append(feature.Mesh(), feature.IPVS)...)
	c, done := populated(t, "ipvs")
	defer done()
	for _, balancer := range []string{"ipvs", "nft"} {
		t.Run(balancer, func(t *testing.T) {
			if c.Balancer != balancer {
				if err := errors.Join(c.Switch(t.Context(), balancer), c.Settle(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			testIdle(t, c)
		})
	}
}

func testIdle(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	flows := openIdle(t, c)
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Resume(); err != nil {
			t.Error(err)
		}
	}()
	for _, silence := range []time.Duration{16 * time.Minute, 2*time.Hour + 5*time.Minute} {
		began := time.Now()
		time.Sleep(silence)
		for _, f := range flows {
			f.ask(t)
		}
		t.Logf("%s: %d connections answer after %s of silence", c.Balancer, len(flows), time.Since(began).Round(time.Second))
	}
}

// idleFlow is one connection, which stays with whom it was given to first.
type idleFlow struct {
	*probe.Flow
	to    netip.AddrPort
	first probe.Answer
}

// openIdle opens four connections through every node in both families: drawn at random,
// one of two endpoints would have none once in 2^23 times.
func openIdle(t *testing.T, c *cluster.Cluster) []*idleFlow {
	t.Helper()
	var flows []*idleFlow
	served := map[string]bool{}
	for _, n := range c.Nodes {
		for _, family := range families() {
			for range 4 {
				f := &idleFlow{to: netip.AddrPortFrom(n.Addr(family), cluster.Published)}
				var err error
				if f.Flow, err = (probe.Client{Place: c.Client.Space, Wait: answerIn}).Open("tcp", f.to); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.Close() }) // the test is over
				if f.first, err = f.Ask(); err != nil {
					t.Fatal(err)
				}
				if f.first.Source.Addr() != c.Client.Addr(family) {
					t.Errorf("%s: %s saw %s", f.to, f.first.Name, f.first.Source)
				}
				served[f.first.Name] = true
				flows = append(flows, f)
			}
		}
	}
	if len(served) < 2 {
		t.Errorf("only %v served: nothing of the other was tried", served)
	}
	return flows
}

func (f *idleFlow) ask(t *testing.T) {
	t.Helper()
	if answer, err := f.Ask(); err != nil || answer != f.first {
		t.Errorf("%s: %+v (%s), before that %+v", f.to, answer, probe.Outcome(err), f.first)
	}
}
