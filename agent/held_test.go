package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func tcpPort(number uint16) kernel.Port { return kernel.Port{Proto: "tcp", Number: number} }

// answersOn tells whether the node's kernel captures a port.
func (a *testAgent) answersOn(port kernel.Port) bool {
	return slices.Contains(captured(a.machine.plan()), fmt.Sprintf("%s . %d", port.Proto, port.Number))
}

// held is what an answer says of held ports, "n2 tcp/8080 nginx (pid 812)".
func held(ports []*sluicev1.HeldPort) string {
	var lines []string
	for _, h := range ports {
		lines = append(lines, fmt.Sprintf("%s %s/%d %s", h.GetNode(), h.GetProtocol(), h.GetPublished(), h.GetHolder()))
	}
	return strings.Join(lines, "; ")
}

func (a *testAgent) problem(reason plan.Reason) *sluicev1.Problem {
	a.tb.Helper()
	for _, p := range a.status().GetProblems() {
		if p.GetReason() == string(reason) {
			return p
		}
	}
	return nil
}

// A port that somebody has on one node is not captured there and is on the others; who
// makes the service is told, and hears it from the status of any node later.
func TestHeldPort(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	n1, n2, n3 := agents[0], agents[1], agents[2]
	n2.machine.occupy(tcpPort(8080), "nginx (pid 812)")
	web := n1.create("web", "8080:80", "8080:80/udp")
	if got := held(web.GetHeld()); got != "n2 tcp/8080 nginx (pid 812)" {
		t.Errorf("create says %q", got)
	}
	eventually(t, "n3 answers", func() bool { return n3.answersOn(tcpPort(8080)) })
	if !n1.answersOn(tcpPort(8080)) || n2.answersOn(tcpPort(8080)) || !n2.answersOn(kernel.Port{Proto: "udp", Number: 8080}) {
		t.Error("the port is not captured where it is free, or is where it is held")
	}
	how, err := n1.states.Explain(t.Context(), &sluicev1.ExplainRequest{Target: "n2:8080"})
	if err != nil || !strings.Contains(how.GetVerdict(), "PortHeld: held by nginx (pid 812)") {
		t.Errorf("explain says %q, %v", how.GetVerdict(), err)
	}
	p := n2.problem(plan.PortHeld)
	if p.GetObject() != "service web port tcp/8080" || p.GetDetail() != "held by nginx (pid 812) on this node: stop it or publish another port" {
		t.Errorf("n2 says %v", p)
	}
	if p := n1.problem(plan.PortHeld); p != nil {
		t.Errorf("n1 has a problem of its own: %v", p)
	}
	eventually(t, "n3 has heard", func() bool {
		resp, err := n3.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil && held(resp.GetService().GetHeld()) == "n2 tcp/8080 nginx (pid 812)"
	})
	for _, peer := range n1.status().GetPeers() {
		want := map[string]string{"n2": "n2 tcp/8080 nginx (pid 812)"}[peer.GetName()]
		if got := held(peer.GetHeld()); got != want {
			t.Errorf("n1 says of %s %q, want %q", peer.GetName(), got, want)
		}
	}
	n2.machine.occupy(tcpPort(8080), "")
	began := time.Now()
	eventually(t, "n2 answers", func() bool { return n2.answersOn(tcpPort(8080)) })
	if took := time.Since(began); took > 2*fullLook {
		t.Errorf("n2 answers after %s", took)
	}
	eventually(t, "the others have heard", func() bool { return held(n1.status().GetPeers()[0].GetHeld()) == "" })
	if n := n2.status().GetRepairs(); n != 0 {
		t.Errorf("%d repairs, and nobody changed anything", n)
	}
}

// An update says what is held of all that it publishes; what it no longer publishes
// nobody holds.
func TestHeldByUpdate(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	n1, n2 := agents[0], agents[1]
	n2.machine.occupy(tcpPort(8081), "nginx (pid 812)")
	update := func(req *sluicev1.UpdateServiceRequest) string {
		t.Helper()
		req.Service = "web"
		resp, err := n1.services.UpdateService(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return held(resp.GetService().GetHeld())
	}
	n1.create("web", "8080:80")
	if got := update(&sluicev1.UpdateServiceRequest{PublishAdd: []string{"8081:80"}}); got != "n2 tcp/8081 nginx (pid 812)" {
		t.Errorf("the port that was added: held %q", got)
	}
	if got := update(&sluicev1.UpdateServiceRequest{Scheduler: "lc"}); got != "n2 tcp/8081 nginx (pid 812)" {
		t.Errorf("nothing is published anew: held %q", got)
	}
	if got := update(&sluicev1.UpdateServiceRequest{PublishRm: []string{"8081:80/tcp"}}); got != "" {
		t.Errorf("the port that was removed: held %q", got)
	}
	eventually(t, "n2 says nothing more", func() bool { return held(n1.status().GetPeers()[0].GetHeld()) == "" })
}

// First come, first served: who binds a port that is captured changes nothing, through
// a flush of all rules and through restarts of the agent.
func TestCapturedStaysCaptured(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.machine.occupy(tcpPort(8080), "late (pid 9)")
	a.create("other", "8081:80")
	stays := func(when string) {
		t.Helper()
		if !a.answersOn(tcpPort(8080)) || a.problem(plan.PortHeld) != nil {
			t.Errorf("%s the port is no longer captured", when)
		}
	}
	stays("after somebody bound it")
	a.machine.mu.Lock()
	a.machine.flushed = true
	a.machine.mu.Unlock()
	a.machine.sabotage(t, "nft (pid 7)", load("inet"))
	eventually(t, "the flush is repaired", func() bool { return a.status().GetRepairs() == 1 })
	stays("after a flush")
	for range 2 {
		a.stop()
		a.start()
		a.create(fmt.Sprintf("more%d", time.Now().UnixNano()))
		stays("after a restart")
	}
	// Given up and published again it is a new port.
	if _, err := a.services.RemoveService(t.Context(), &sluicev1.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	if got := held(a.create("web", "8080:80").GetHeld()); got != "n1 tcp/8080 late (pid 9)" || a.answersOn(tcpPort(8080)) {
		t.Errorf("published again: held %q", got)
	}
	a.stop()
	a.start()
	a.create("last")
	if a.answersOn(tcpPort(8080)) || a.problem(plan.PortHeld) == nil {
		t.Error("after a restart the held port is captured")
	}
}

// A port of which nobody can say whether it is free waits; one that is captured does not.
func TestHeldUnknown(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	blind := func(err error) {
		a.machine.mu.Lock()
		defer a.machine.mu.Unlock()
		a.machine.blind = err
	}
	blind(errors.New("no memory"))
	a.create("other", "8081:80")
	if !a.answersOn(tcpPort(8080)) || a.answersOn(tcpPort(8081)) {
		t.Error("the new port is captured, or the old one is no longer")
	}
	if p := a.problem(plan.KernelRefused); !strings.Contains(p.GetDetail(), "no memory") {
		t.Errorf("the status says %v", p)
	}
	blind(nil)
	eventually(t, "the port is captured", func() bool { return a.answersOn(tcpPort(8081)) })
}

// A failed change of the host's rules has captured nothing.
func TestFailedCaptureIsNone(t *testing.T) {
	w := scene.New(t, 1)
	w.Service("web", nil, scene.Port(8080, 80, mesh.TCP))
	m := newFakeMachine(t, nodeAddr(1))
	var h heldPorts
	snap := w.State.Snapshot()
	look := func(want int) {
		t.Helper()
		if err := h.look(m, snap, mesh.Hosting{}); err != nil || len(h.now) != want {
			t.Errorf("held %v, %v, want %d", h.now, err, want)
		}
	}
	look(0)
	h.applied(snap, kernel.Report{Failed: []kernel.Failure{{Object: "host: nft table inet sluice"}}})
	m.occupy(tcpPort(8080), "quick (pid 3)")
	look(1)
	m.occupy(tcpPort(8080), "")
	look(0) // one that no round follows
	m.occupy(tcpPort(8080), "quick (pid 3)")
	look(1)
	m.occupy(tcpPort(8080), "")
	look(0)
	h.applied(snap, kernel.Report{Failed: []kernel.Failure{{Object: "ingress-sbox: link vx"}}})
	m.occupy(tcpPort(8080), "late (pid 4)")
	look(0)
}

// What the plan of a node lacks where one of its ports is another's.
func TestCompileHeld(t *testing.T) {
	w := scene.New(t, 3)
	four := scene.Port(8081, 80, mesh.TCP)
	four.Addr = netip.MustParseAddr("192.0.2.11")
	w.Endpoint(w.Service("web", nil, scene.Port(8080, 80, mesh.TCP), scene.Port(8080, 80, mesh.UDP), four), "web.1", 2)
	p := Compile(mesh.Local{ID: scene.NodeID(1), Held: []mesh.HeldPort{
		{Proto: mesh.TCP, Published: 8080, By: "nginx (pid 812)"},
		{Addr: four.Addr, Proto: mesh.TCP, Published: 8081, By: "Docker's rule in table ip nat chain DOCKER"},
		{Proto: mesh.TCP, Published: 9999, By: "what nobody publishes"},
	}}, w.State.Snapshot())
	golden.Equal(t, p.Text())
}
