package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// steadyWorld is a port of the client that endpoints dial.
const steadyWorld = 9970

// testSteady publishes the first port of the mesh on a service whose port of mode host has open
// connections, and takes it away again: the default route of the endpoint moves there and back, and
// what is open goes on, either way. Datagrams follow.
func testSteady(t *testing.T, b *base) {
	t.Helper()
	b.serve(t, b.Client, "world", steadyWorld)
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
	open         []*probe.Flow // to the port of mode host, and from the endpoint to the world
	meshOpen     []*probe.Flow
}

func target(published uint16) string { return fmt.Sprintf("%d:%d", published, probe.TargetPort) }

func (s *steady) try(t *testing.T) {
	t.Helper()
	defer s.close()
	datagrams := map[cluster.Family]*probe.Flow{}
	for _, f := range bothFamilies() {
		s.begin(t, f)
		s.open = append(s.open, s.stream(t, s.who, netip.AddrPortFrom(s.Client.Addr(f), steadyWorld)))
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
	s.moved(t)
	for range 2 {
		s.sluice(t, "service", "update", s.service, "--publish-add", target(s.mesh)+"/tcp", "--publish-add", target(s.mesh)+"/udp")
		rest("the mesh came")
		for _, f := range bothFamilies() {
			s.begin(t, f)
			s.meshed(t, f)
			s.meshOpen = append(s.meshOpen, s.stream(t, s.Client, netip.AddrPortFrom(s.node.Addr(f), s.mesh)))
		}
		s.moved(t)
		s.unspoiled(t, s.meshOpen, "the mesh is there")
		s.sluice(t, "service", "update", s.service, "--publish-rm", target(s.mesh)+"/tcp", "--publish-rm", target(s.mesh)+"/udp")
		rest("the mesh went")
		for _, flow := range s.meshOpen {
			flow.Wait = 50 * time.Millisecond
			if a, err := flow.Ask(); err == nil {
				t.Errorf("a connection of the mesh goes on where it leads to nobody: %+v", a)
			}
			flow.Close()
		}
		s.meshOpen = nil
	}
}

// moved has the default route go to a network of greater priority and back, beside the mesh or without.
func (s *steady) moved(t *testing.T) {
	t.Helper()
	s.sluice(t, "endpoint", "connect", s.who.name, "other", "--gw-priority", "10")
	s.rest(t)
	s.goOn(t, "a network of priority was joined")
	s.sluice(t, "endpoint", "disconnect", s.who.name, "other")
	s.rest(t)
	s.goOn(t, "that network was left")
}

// begin opens one more connection to the port of mode host.
func (s *steady) begin(t *testing.T, f cluster.Family) {
	t.Helper()
	s.open = append(s.open, s.stream(t, s.Client, netip.AddrPortFrom(s.node.Addr(f), s.hosted)))
}

func (s *steady) stream(t *testing.T, from probe.Place, to netip.AddrPort) *probe.Flow {
	t.Helper()
	flow, err := probe.Client{Place: from, Wait: steadyWait}.Open("tcp", to)
	if err != nil {
		t.Fatalf("%s: %v", to, err)
	}
	return flow
}

// goOn asks on all that is open.
func (s *steady) goOn(t *testing.T, after string) {
	t.Helper()
	s.unspoiled(t, s.open, after)
}

func (s *steady) unspoiled(t *testing.T, flows []*probe.Flow, after string) {
	t.Helper()
	for i, flow := range flows {
		if a, err := flow.Ask(); err != nil {
			t.Errorf("after %s, connection %d: %+v, %v", after, i, a, err)
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
	for _, flow := range append(s.open, s.meshOpen...) {
		flow.Close()
	}
}
