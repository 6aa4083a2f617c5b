package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// following is node n1's pulse in a bubble of virtual time, and the other nodes'
// addresses in the tunnel.
type following struct {
	*pulse
	t     *testing.T
	echo  *fakeEcho
	addrs map[mesh.NodeID]netip.Addr
}

// follow runs f in a cluster of so many nodes, of which all but the last have an endpoint
// on the ingress network. Gossip hears nobody yet.
func follow(t *testing.T, nodes int, f func(p *following)) {
	t.Helper()
	followWith(t, nodes, func(*pulse) {}, f)
}

// followWith is follow with a pulse that is changed before it runs.
func followWith(t *testing.T, nodes int, prepare func(*pulse), f func(p *following)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := scene.New(t, nodes)
		web := w.Service("web", nil, scene.Port(8080, 80, mesh.TCP))
		for n := 1; n < nodes; n++ {
			w.Endpoint(web, fmt.Sprintf("web.%d", n), n)
		}
		c, _ := member(t, w, &clock{at: time.Now()})
		c.now = time.Now
		p := &following{t: t, echo: &fakeEcho{}, addrs: map[mesh.NodeID]netip.Addr{}}
		p.pulse = newPulse(c, c.snapshot, p.echo, slog.New(slog.NewTextHandler(t.Output(), nil)))
		prepare(p.pulse)
		for _, n := range w.State.Snapshot().Nodes {
			if blocks := n.BlocksOf(mesh.IngressNetwork); len(blocks) > 0 {
				p.addrs[n.ID] = blocks[0].Gateway4()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.run(ctx) }()
		f(p)
		cancel()
		if err := <-done; err != nil || !p.echo.closed {
			t.Errorf("the pulse ended with %v, closed %v", err, p.echo.closed)
		}
	})
}

// after lets time pass, and wants node n2 to be seen so then.
func (p *following) after(pause time.Duration, want presence) {
	p.t.Helper()
	time.Sleep(pause)
	synctest.Wait()
	two := scene.NodeID(2)
	if got := p.standing(two).presence; got != want || p.gone()[two] != (want == presenceGone) {
		p.t.Fatalf("n2 is seen as %s, gone %v, want %s", got, p.gone(), want)
	}
}

// woken tells whether the loop was woken since the last call.
func (p *following) woken() bool {
	select {
	case <-p.cluster.changed:
		return true
	default:
		return false
	}
}

func TestPulseAgentDies(t *testing.T) {
	follow(t, 4, func(p *following) {
		two := scene.NodeID(2)
		p.after(3*time.Second, presenceAgentDown) // gossip has not met it yet
		p.cluster.MemberAlive(two)
		p.after(0, presenceAlive)
		p.woken()
		p.cluster.MemberSilent(two)
		p.after(0, presenceAgentDown)
		p.after(time.Hour, presenceAgentDown)
		if p.woken() {
			t.Error("the loop was woken for nothing")
		}
		p.cluster.MemberAlive(two)
		p.after(0, presenceAlive)
	})
}

func TestPulseNodeDies(t *testing.T) {
	follow(t, 4, func(p *following) {
		two := scene.NodeID(2)
		p.cluster.MemberAlive(two)
		p.after(10*time.Second, presenceAlive)
		p.woken()
		p.echo.setMute(p.addrs[two])
		p.after(2*time.Second, presenceAlive)
		if p.woken() {
			t.Error("gossip hears it, and the loop was woken")
		}
		p.cluster.MemberSilent(two)
		p.after(0, presenceSilent)
		p.after(echoWait, presenceGone) // it was asked already, and only once more
		if !p.woken() {
			t.Error("a node is gone, and the loop was not woken")
		}
		since := p.standing(two).since
		p.after(time.Hour, presenceGone)
		if p.woken() || p.standing(two).since != since {
			t.Error("nothing changed, and it is told anew")
		}
		p.echo.setMute()
		p.after(2*time.Second, presenceAgentDown) // its kernel first
		if !p.woken() {
			t.Error("a node is back, and the loop was not woken")
		}
		p.cluster.MemberAlive(two)
		p.after(0, presenceAlive)
	})
}

// The other node uses this one again as soon as the link is back. Were it taken for gone here then, by
// what was missed before, its flows would be forgotten, and those that are open be reset.
func TestPulseLinkIsBack(t *testing.T) {
	follow(t, 4, func(p *following) {
		two := scene.NodeID(2)
		p.cluster.MemberAlive(two)
		p.after(10*time.Second, presenceAlive)
		p.echo.setMute(p.addrs[two])
		p.after(3*time.Second, presenceAlive)
		p.echo.setMute()
		p.cluster.MemberSilent(two)
		for range 500 {
			if time.Sleep(time.Millisecond); p.gone()[two] {
				t.Fatal("its kernel could be asked, and was taken for mute")
			}
		}
		p.after(0, presenceAgentDown)
	})
}

// From the last answer to the end of patience it is at most 1.1 s + 3 * 0.2 s, whenever
// the node dies.
func TestPulseIsQuick(t *testing.T) {
	for at := range 10 {
		follow(t, 3, func(p *following) {
			p.after(10*time.Second+time.Duration(at)*110*time.Millisecond, presenceAgentDown)
			p.echo.setMute(p.addrs[scene.NodeID(2)])
			p.echo.asked()
			p.after(1800*time.Millisecond, presenceGone)
			times := p.echo.asked()[p.addrs[scene.NodeID(2)]]
			if took := times[2].Sub(times[0]); took < 2*echoWait || took > 3*echoWait {
				t.Errorf("three echoes took %s", took)
			}
		})
	}
}

// After a restart nothing is known: endpoints stay until their kernel was asked.
func TestPulseStartsNotKnowing(t *testing.T) {
	follow(t, 3, func(p *following) {
		p.echo.setMute(p.addrs[scene.NodeID(2)])
		p.after(0, presenceSilent)
		p.after(400*time.Millisecond, presenceSilent)
		p.after(500*time.Millisecond, presenceGone)
	})
}

// Where nothing can be asked from here, gossip silence removes nothing, and status says so.
func TestPulseCannotAsk(t *testing.T) {
	follow(t, 4, func(p *following) {
		two := scene.NodeID(2)
		p.cluster.MemberAlive(two)
		p.after(3*time.Second, presenceAlive)
		p.echo.setFault(errors.New("no such socket"))
		p.after(2*time.Second, presenceAlive)
		p.cluster.MemberSilent(two)
		p.after(time.Minute, presenceSilent)
		if got := fmt.Sprint(p.problems()); !strings.Contains(got, "EchoFailed") || !strings.Contains(got, "2 of 2 nodes cannot be asked from here (no such socket)") {
			t.Errorf("problems are %s", got)
		}
		p.echo.setFault(nil)
		p.after(2*time.Second, presenceAgentDown)
		p.echo.setMute(p.addrs[two])
		p.after(2*time.Second, presenceGone)
		p.echo.setFault(errors.New("no such socket"))
		p.after(time.Minute, presenceGone) // nor does it bring anything back
	})
}

func TestPulseTunnelCut(t *testing.T) {
	follow(t, 3, func(p *following) {
		two := scene.NodeID(2)
		p.cluster.MemberAlive(two)
		p.after(3*time.Second, presenceAlive)
		p.echo.setMute(p.addrs[two])
		p.after(3*time.Second, presenceAlive)
		if len(p.problems()) > 0 {
			t.Errorf("it may be a moment's trouble: %v", p.problems())
		}
		p.woken()
		p.after(10*time.Second, presenceAlive)
		want := "its agent answers, its kernel does not through the tunnel: check that udp 4789 passes between 192.0.2.11 and 192.0.2.12"
		got := p.problems()
		if len(got) != 1 || got[0].object != "node n2" || got[0].reason != string(TunnelSilent) || got[0].detail != want || !p.woken() {
			t.Errorf("problems are %v", got)
		}
		p.echo.setMute()
		p.after(2*time.Second, presenceAlive)
		if len(p.problems()) > 0 || !p.woken() {
			t.Errorf("the tunnel carries again: %v", p.problems())
		}
	})
}

// A node without an endpoint has no sandbox that could answer: it is not asked.
func TestPulseAsksWhoCanAnswer(t *testing.T) {
	follow(t, 5, func(p *following) {
		p.after(time.Minute, presenceAgentDown)
		asked := p.echo.asked()
		if len(asked) != 3 {
			t.Errorf("asked %d nodes", len(asked))
		}
		for addr, times := range asked {
			if len(times) < 50 || len(times) > 70 {
				t.Errorf("%s was asked %d times in a minute", addr, len(times))
			}
		}
		if got := p.standing(scene.NodeID(5)).presence; got != presenceSilent {
			t.Errorf("a node without an endpoint is %s", got)
		}
		if got := p.standing(scene.NodeID(1)).presence; got != presenceAlive {
			t.Errorf("this node is %s", got)
		}
	})
}

// In a cluster of agents, the endpoints of a node that is gone are no backends, and what
// comes of it is no repair.
func TestGoneNodeIsNotUsed(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	var address string
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	for _, at := range b.attach("web.2").GetAttachments() {
		address = at.GetAddresses()[0]
	}
	used := func() bool { return strings.Contains(a.machine.plan().Text(), address+":80 weight 1") }
	eventually(t, "n1 sends to web.2", used)
	block, err := netip.MustParseAddr(address).Prefix(27)
	if err != nil {
		t.Fatal(err)
	}
	peer := block.Addr() // n2's sandbox
	state := func() sluicev1.NodeState { return a.status().GetPeers()[0].GetState() }
	b.stop()
	eventually(t, "n1 finds the agent down", func() bool { return state() == sluicev1.NodeState_NODE_STATE_AGENT_DOWN })
	if !used() {
		t.Error("the agent is down, and its endpoint is not used")
	}
	a.machine.echo.setMute(peer)
	eventually(t, "n1 finds the node gone", func() bool { return state() == sluicev1.NodeState_NODE_STATE_GONE && !used() })
	eventually(t, "status says so", func() bool {
		got := fmt.Sprint(a.status().GetProblems())
		return strings.Contains(got, "NodeGone") && strings.Contains(got, "until the node of an endpoint is back")
	})
	if a.endpointNames() != "web.2@n2" {
		t.Errorf("its records are gone too: %q", a.endpointNames())
	}
	a.machine.echo.setMute()
	eventually(t, "n1 uses web.2 again", used)
	b.start()
	eventually(t, "n1 hears n2", func() bool { return state() == sluicev1.NodeState_NODE_STATE_ALIVE })
	if n := a.status().GetRepairs(); n > 0 {
		t.Errorf("%d repairs are counted", n)
	}
}
