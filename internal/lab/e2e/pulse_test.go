package e2e

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

const (
	agentAway   = 15 * time.Second
	frozenFor   = 10 * time.Second
	removeLimit = 5 * time.Second  // from the cut to the last node that still sends there
	returnLimit = 10 * time.Second // from the link's return to the last node that sends there again
)

// testPulse takes from n2 its agent, then all its processes, then its link. Only the last
// takes its endpoint away from the others.
func testPulse(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	p := pulseTest{c, c.Node("n2"), []*cluster.Node{c.Node("n1"), c.Node("n3")}, c.Endpoint("web.2")}
	t.Run("AgentKilled", p.agentKilled)
	t.Run("Frozen", p.frozen)
	t.Run("LinkDown", p.linkDown)
}

type pulseTest struct {
	*cluster.Cluster
	victim *cluster.Node
	others []*cluster.Node
	web2   *cluster.Endpoint
}

// inUse tells whether the kernel of a node balances to web.2.
func (p *pulseTest) inUse(t *testing.T, n *cluster.Node) bool {
	t.Helper()
	var text []byte
	err := n.Ingress.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil || !strings.Contains(string(text), "FWM") {
		t.Fatalf("%s: IPVS holds %q, %v", n.Name, text, err)
	}
	four := p.web2.On("ingress", cluster.IPv4).As4()
	return strings.Contains(string(text), strings.ToUpper(hex.EncodeToString(four[:]))+":0050")
}

// seen tells how a node sees the victim.
func (p *pulseTest) seen(t *testing.T, n *cluster.Node) sluicev1.NodeState {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range s.GetPeers() {
		if peer.GetName() == p.victim.Name {
			return peer.GetState()
		}
	}
	return sluicev1.NodeState_NODE_STATE_UNSPECIFIED
}

// seenAs waits until all others see the victim so.
func (p *pulseTest) seenAs(t *testing.T, want sluicev1.NodeState) {
	t.Helper()
	for _, n := range p.others {
		until(t, fmt.Sprintf("%s sees %s as %s", n.Name, p.victim.Name, want), func() error {
			if got := p.seen(t, n); got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
}

// ask sends one request after the other to each entry node for so long, and counts who
// answered. None may fail.
func (p *pulseTest) ask(t *testing.T, d time.Duration, entries ...*cluster.Node) map[string]int {
	t.Helper()
	client := probe.Client{Place: p.Client, Wait: 5 * time.Second}
	answered, failed := map[string]int{}, 0
	for began := time.Now(); time.Since(began) < d; {
		for _, n := range entries {
			answer, err := client.Get(netip.AddrPortFrom(n.V4, cluster.Published))
			if err != nil {
				failed++
				t.Errorf("by %s, %s after the beginning: %s", n.Name, time.Since(began).Round(time.Millisecond), probe.Outcome(err))
			} else {
				answered[answer.Name]++
			}
		}
		if failed > 10 {
			break
		}
	}
	t.Logf("answered %v, failed %d", answered, failed)
	return answered
}

// agentKilled: the data plane of n2 does not need its agent, and nobody takes it away.
func (p *pulseTest) agentKilled(t *testing.T) {
	if err := p.victim.KillAgent(); err != nil {
		t.Fatal(err)
	}
	answered := p.ask(t, agentAway, p.others[0], p.victim)
	if answered["web.2"] == 0 || answered["web.3"] == 0 {
		t.Errorf("not both endpoints answered: %v", answered)
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_AGENT_DOWN)
	for _, n := range p.others {
		if !p.inUse(t, n) {
			t.Errorf("%s does not send to web.2", n.Name)
		}
	}
	if err := p.victim.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_ALIVE)
	p.settled(t)
}

// frozen: all processes of n2 stand still, and its kernel answers for them.
func (p *pulseTest) frozen(t *testing.T) {
	if err := p.Freeze(p.victim); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Thaw(p.victim); err != nil {
			t.Error(err)
		}
	}()
	for began := time.Now(); time.Since(began) < frozenFor; time.Sleep(100 * time.Millisecond) {
		for _, n := range p.others {
			if !p.inUse(t, n) {
				t.Fatalf("%s does not send to web.2, %s after its processes were stopped", n.Name, time.Since(began))
			}
		}
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_AGENT_DOWN)
	if err := p.Thaw(p.victim); err != nil {
		t.Fatal(err)
	}
	// Whom it did not hear for so long, it does not take for dead.
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		if !p.inUse(t, p.victim) {
			t.Fatalf("%s does not send to its own endpoint", p.victim.Name)
		}
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_ALIVE)
	p.settled(t)
}

// linkDown: neither agent nor kernel of n2 answers, and the others go on without it.
func (p *pulseTest) linkDown(t *testing.T) {
	began := time.Now()
	if err := p.Unplug(p.victim); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.PlugIn(p.victim); err != nil {
			t.Error(err)
		}
	}()
	if took := p.all(t, began, "do not use web.2", func(n *cluster.Node) bool { return !p.inUse(t, n) }); took > removeLimit {
		t.Errorf("web.2 was removed everywhere after %s, want at most %s", took, removeLimit)
	}
	if answered := p.ask(t, 3*time.Second, p.others...); answered["web.2"] > 0 || answered["web.3"] == 0 {
		t.Errorf("answered %v", answered)
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_GONE)
	s, err := p.others[0].Status(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(s.GetProblems()), "NodeGone") {
		t.Errorf("n1 does not say that n2 is gone: %v, %v", s.GetProblems(), err)
	}
	began = time.Now()
	if err := p.PlugIn(p.victim); err != nil {
		t.Fatal(err)
	}
	if took := p.all(t, began, "use web.2 again", func(n *cluster.Node) bool { return p.inUse(t, n) }); took > returnLimit {
		t.Errorf("web.2 was back everywhere after %s, want at most %s", took, returnLimit)
	}
	if answered := p.ask(t, 2*time.Second, p.others...); answered["web.2"] == 0 {
		t.Errorf("web.2 is back and did not answer: %v", answered)
	}
	p.seenAs(t, sluicev1.NodeState_NODE_STATE_ALIVE)
	p.settled(t)
}

// all waits until something is so on all others, and tells how long after began that was.
func (p *pulseTest) all(t *testing.T, began time.Time, what string, so func(*cluster.Node) bool) time.Duration {
	t.Helper()
	for _, n := range p.others {
		until(t, n.Name+" is one that "+what, func() error {
			if !so(n) {
				return fmt.Errorf("not after %s", time.Since(began))
			}
			return nil
		})
	}
	took := time.Since(began).Round(time.Millisecond)
	t.Logf("all others %s %s after the link changed", what, took)
	return took
}

// settled wants the cluster as it was.
func (p *pulseTest) settled(t *testing.T) {
	t.Helper()
	if err := p.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
}
