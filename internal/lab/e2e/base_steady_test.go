package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// testSteady publishes the first port of the mesh on a service whose port of mode host has open
// connections, and takes it away again: the default route of the endpoint moves there and back, and
// what is open goes on. Datagrams follow.
func testSteady(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "steady-bridge")
	b.sluice(t, "network", "create", "steady-overlay")
	for i, network := range []string{"steady-bridge", "steady-overlay", ""} {
		s := steady{base: b, service: "steady" + network, hosted: uint16(8820 + 10*i), mesh: uint16(8821 + 10*i)}
		args := append([]string{"service", "create", s.service}, publish(target(s.hosted))...)
		if network != "" {
			args = append(args, "--network", network)
		} else {
			network = "sluice0" // where services without a network are
		}
		b.sluice(t, args...)
		s.who = b.attach(t, b.node, s.service, network)
		// Strict filters let only those in whom the endpoint would answer by the same interface.
		said(t, s.who.Space, "sysctl", "-q", "-w", "net.ipv4.conf.all.rp_filter=1")
		b.rest(t)
		t.Run(network, func(t *testing.T) { s.try(t) })
	}
}

// steadyWait is more than a node under test needs for an answer on an open connection.
const steadyWait = 2 * time.Second

// steady is one service under test, and what a client has open to its one endpoint.
type steady struct {
	*base
	service      string
	hosted, mesh uint16 // published
	who          *resident
	open         []*probe.Flow
}

func target(published uint16) string { return fmt.Sprintf("%d:%d", published, probe.TargetPort) }

func (s *steady) try(t *testing.T) {
	t.Helper()
	defer s.close()
	datagrams := map[cluster.Family]*probe.Flow{}
	for _, f := range bothFamilies() {
		s.begin(t, f)
		flow, err := probe.Client{Place: s.Client, Wait: patience}.Open("udp", netip.AddrPortFrom(s.node.Addr(f), s.hosted))
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		datagrams[f] = flow
	}
	rest := func(after string) {
		t.Helper()
		s.rest(t)
		s.goOn(t, after)
		for _, f := range bothFamilies() {
			follows(t, datagrams[f], s.who.name)
		}
	}
	rest("attach")
	for range 2 {
		s.sluice(t, "service", "update", s.service, "--publish-add", target(s.mesh)+"/tcp", "--publish-add", target(s.mesh)+"/udp")
		rest("the mesh came")
		for _, f := range bothFamilies() {
			s.begin(t, f)
			s.meshed(t, f)
		}
		s.sluice(t, "service", "update", s.service, "--publish-rm", target(s.mesh)+"/tcp", "--publish-rm", target(s.mesh)+"/udp")
		rest("the mesh went")
	}
}

// begin opens one more connection to the port of mode host.
func (s *steady) begin(t *testing.T, f cluster.Family) {
	t.Helper()
	flow, err := probe.Client{Place: s.Client, Wait: steadyWait}.Open("tcp", netip.AddrPortFrom(s.node.Addr(f), s.hosted))
	if err != nil {
		t.Fatalf("%s: the port of mode host: %v", f, err)
	}
	s.open = append(s.open, flow)
}

// goOn asks on all that is open.
func (s *steady) goOn(t *testing.T, after string) {
	t.Helper()
	for i, flow := range s.open {
		if a, err := flow.Ask(); err != nil || a.Name != s.who.name {
			t.Errorf("after %s, connection %d of mode host: %+v, %v", after, i, a, err)
		}
	}
}

// meshed dials the port of the mesh, by both protocols.
func (s *steady) meshed(t *testing.T, f cluster.Family) {
	t.Helper()
	for _, proto := range protocols() {
		flow, err := probe.Client{Place: s.Client, Wait: patience}.Open(proto, netip.AddrPortFrom(s.node.Addr(f), s.mesh))
		if err != nil {
			t.Errorf("%s %s: the port of the mesh: %v", proto, f, err)
			continue
		}
		if a, err := flow.Ask(); err != nil || a.Source.Addr() != s.Client.Addr(f) {
			t.Errorf("%s %s: the port of the mesh: %+v, %v, want our own address seen", proto, f, a, err)
		}
		flow.Close()
	}
}

func (s *steady) close() {
	for _, flow := range s.open {
		flow.Close()
	}
}
