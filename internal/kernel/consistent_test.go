package kernel_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// With a consistent scheduler the same backends give the same choice, whatever order they
// came in; putting them in order ends no open flow, and one that drains moves its own
// clients only.
func TestConsistentIPVS(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	for _, scheduler := range []mesh.Scheduler{mesh.Maglev, mesh.SourceHash} {
		t.Run(string(scheduler), func(t *testing.T) { testConsistent(t, scheduler) })
	}
}

func testConsistent(t *testing.T, scheduler mesh.Scheduler) {
	t.Helper()
	n := newOneNode(t, mesh.BalancerIPVS)
	web := n.world.Service("web", nil, scene.Port(webPort, 80, mesh.TCP), scene.Port(webPort, 80, mesh.UDP))
	n.world.Change(web, func(s *mesh.Service) { s.Scheduler = scheduler })
	n.serve(web, "web.1", "web.2", "web.3", "web.4", "web.5")
	n.round()
	had := map[way][]string{}
	for _, w := range twoWays() {
		had[w] = n.askAll(w)
		if names := distinct(had[w]); len(names) < 3 {
			t.Errorf("%s: %d clients come to %v only", w, clients, names)
		}
	}

	n.shuffle()
	moved := 0
	for _, w := range twoWays() {
		for i, name := range n.askAll(w) {
			if name != had[w][i] {
				moved++
			}
		}
	}
	t.Logf("%s: in another order of backends %d of %d clients are led elsewhere", scheduler, moved, len(twoWays())*clients)
	flows := map[string]*probe.Flow{}
	names := map[string]string{}
	for _, w := range twoWays() {
		for i := range clients {
			key := fmt.Sprintf("client %d, %s", i, w)
			c := probe.Client{Place: n.client, Local: netip.AddrPortFrom(clientAddr(w.family, i), 0), Wait: 5 * time.Second}
			f, err := c.Open(w.proto, netip.AddrPortFrom(nodeAddr(w.family), webPort))
			n.must(err)
			defer f.Close()
			a, err := f.Ask()
			n.must(err)
			flows[key], names[key] = f, a.Name
		}
	}
	report := n.round()
	if !slices.ContainsFunc(report.Done, func(op kernel.Op) bool { _, is := op.Object.(kernel.BackendOrder); return is }) {
		t.Errorf("nothing was put in order: %v", report.Done)
	}
	for key, f := range flows {
		if a, err := f.Ask(); err != nil || a.Name != names[key] {
			t.Errorf("open flow of %s to %s: %v, %v", key, names[key], a, err)
		}
	}
	n.wantChoice(had, "in order again")

	gone := had[twoWays()[0]][0]
	n.put(gone, mesh.Draining)
	for _, w := range twoWays() {
		for i, name := range n.askAll(w) {
			if had[w][i] == gone && name == gone || had[w][i] != gone && name != had[w][i] {
				t.Errorf("%s: client %d of %s comes to %s while %s drains", w, i, had[w][i], name, gone)
			}
		}
	}
	n.put(gone, mesh.Ready)
	n.wantChoice(had, "after one drained")
}

// twoWays are enough for what depends on addresses alone: a virtual machine is slow.
func twoWays() []way { return []way{{"tcp", plan.IPv4}, {"udp", plan.IPv6}} }

func (n *oneNode) wantChoice(had map[way][]string, when string) {
	n.t.Helper()
	for w, names := range had {
		if got := n.askAll(w); !slices.Equal(got, names) {
			n.t.Errorf("%s %s: clients come to %v, before to %v", w, when, got, names)
		}
	}
}

// shuffle puts the first backend of each virtual server behind the others, by hand.
func (n *oneNode) shuffle() {
	n.t.Helper()
	first := map[plan.VirtualServer]plan.Backend{}
	for _, s := range n.plan().Sandboxes {
		for _, b := range s.Backends {
			key := plan.VirtualServer{Mark: b.Mark, Family: plan.FamilyOf(b.Addr)}
			if _, met := first[key]; !met {
				first[key] = b
			}
		}
	}
	for key, b := range first {
		at := []string{"-f", fmt.Sprint(key.Mark)}
		if key.Family == plan.IPv6 {
			at = append(at, "-6")
		}
		at = append(at, "-r", netip.AddrPortFrom(b.Addr, b.Port).String())
		for _, args := range [][]string{append([]string{"-d"}, at...), append(append([]string{"-a"}, at...), "-m", "-w", fmt.Sprint(b.Weight))} {
			if _, err := n.sbox().Run(n.t.Context(), "ipvsadm", args...); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}
