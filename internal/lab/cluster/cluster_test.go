package cluster

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// bare is the lab's link and hosts without any agent: it needs nothing of the
// kernel that a development machine lacks.
func bare(t *testing.T) *Cluster {
	t.Helper()
	dir := t.TempDir()
	c := &Cluster{Config: Config{Progress: t.Logf}, Dir: dir}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	})
	for _, step := range []func(context.Context) error{c.link, c.hosts, c.bridges} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestHostsReachEachOther(t *testing.T) {
	c := bare(t)
	if err := c.listen(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		for _, f := range []Family{IPv4, IPv6} {
			a, err := probe.Client{Place: n, Wait: 5 * time.Second}.Get(netip.AddrPortFrom(c.Client.Addr(f), World))
			if err != nil || a.Name != "world" || a.Source.Addr() != n.Addr(f) {
				t.Errorf("%s, %s: %+v, %v, want world to see %s", n.Name, f, a, err, n.Addr(f))
			}
		}
	}
}

func TestBridgesAreTheSameEverywhere(t *testing.T) {
	c := bare(t)
	for _, n := range c.Nodes {
		if _, err := n.Run(t.Context(), "ip", "address", "show", "dev", ownBridge, "to", BridgeGateway4().String()); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	if _, err := c.Bridged.Run(t.Context(), "ip", "route", "get", BridgeGateway4().Addr().String()); err != nil {
		t.Error(err)
	}
}

func TestCloseFindsWhatIsLeft(t *testing.T) {
	c := bare(t)
	p, err := start(c.Client.Space, "sleeper", c.Dir+"/sleeper.log", sleeper())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.inhabited(); err == nil || !strings.Contains(err.Error(), "sleep") {
		t.Errorf("a process in the lab's namespace: %v, want it named", err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if err := c.inhabited(); err != nil {
		t.Errorf("after it was stopped: %v", err)
	}
}

func TestProcessTellsItsLastWords(t *testing.T) {
	c := bare(t)
	p, err := start(c.Client.Space, "talker", c.Dir+"/talker.log", talker())
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	if err := p.running(); err == nil || !strings.Contains(err.Error(), "out of luck") {
		t.Errorf("ended process says %v, want its last words", err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}
