package kernel_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// A client of a service with affinity comes to one endpoint, whatever happens around it,
// until that endpoint takes nobody any more or the time is over.
func TestAffinity(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	testAffinity(t, mesh.BalancerNFT)
}

func TestAffinityIPVS(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	testAffinity(t, mesh.BalancerIPVS)
}

// affine is a node with service web on webPort, of three endpoints.
func affine(t *testing.T, balancer mesh.Balancer, long time.Duration) (*oneNode, mesh.ServiceID) {
	t.Helper()
	n := newOneNode(t, balancer)
	web := n.world.Service("web", nil, scene.Port(webPort, 80, mesh.TCP), scene.Port(webPort, 80, mesh.UDP))
	n.world.Change(web, func(s *mesh.Service) { s.Affinity = long })
	n.serve(web, "web.1", "web.2", "web.3")
	n.round()
	return n, web
}

func testAffinity(t *testing.T, balancer mesh.Balancer) {
	t.Helper()
	n, _ := affine(t, balancer, mesh.AffinityDefault)
	had := map[way][]string{}
	for _, w := range allWays() {
		for range 20 {
			had[w] = append(had[w], n.mustAsk(w, 0))
		}
		if names := slices.Compact(had[w]); len(names) != 1 {
			t.Errorf("%s: one client comes to %v", w, names)
		}
		had[w] = n.askAll(w)
		if names := distinct(had[w]); len(names) != 3 {
			t.Errorf("%s: %d clients come to %v only", w, clients, names)
		}
	}
	same := func(when string) {
		t.Helper()
		for _, w := range allWays() {
			if got := n.askAll(w); !slices.Equal(got, had[w]) {
				t.Errorf("%s %s, clients come to %v, before to %v", w, when, got, had[w])
			}
		}
	}
	same("at the same time")

	other := n.world.Service("other", nil, scene.Port(8081, 80, mesh.TCP))
	n.world.Change(other, func(s *mesh.Service) { s.Affinity = 7 * time.Second })
	n.serve(other, "other.1")
	report := n.round()
	if balancer == mesh.BalancerNFT && !loads(report) {
		t.Errorf("no rule changed: %v", report.Done)
	}
	same("after rules changed")

	n.restart()
	n.wantNoDifference(n.plan())
	n.round()
	same("after a restart")

	for _, state := range []mesh.EndpointState{mesh.Draining, ""} {
		gone := had[allWays()[0]][0]
		n.put(gone, state)
		moved := map[way][]string{}
		for _, w := range allWays() {
			moved[w] = n.askAll(w)
			if slices.Contains(moved[w], gone) {
				t.Errorf("%s: somebody comes to %s, which is %q", w, gone, state)
			}
			for i, name := range had[w] {
				if name != gone && moved[w][i] != name {
					t.Errorf("%s: client %d of %s is moved to %s when %s is %q", w, i, name, moved[w][i], gone, state)
				}
			}
		}
		had = moved
		same("after " + gone + " left")
		if state == mesh.Draining {
			n.put(gone, mesh.Ready)
			same("after " + gone + " came back")
		}
	}
}

func distinct(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// loads tells whether a round loaded rules.
func loads(r kernel.Report) bool {
	return slices.ContainsFunc(r.Done, func(op kernel.Op) bool {
		_, is := op.Object.(kernel.TableLoad)
		return is && op.Sandbox == plan.IngressSandbox
	})
}

// Connections that one client begins at the same time, as browsers do, come to one endpoint.
func TestAffinityAtOnce(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n, _ := affine(t, mesh.BalancerNFT, mesh.AffinityDefault)
	for _, w := range allWays() {
		for i := range clients {
			var group sync.WaitGroup
			names := make([]string, 8)
			for k := range names {
				group.Go(func() {
					var err error
					if names[k], err = n.ask(w, i); err != nil {
						t.Errorf("%s: %v", w, err)
					}
				})
			}
			group.Wait()
			if all := distinct(names); len(all) != 1 {
				t.Errorf("%s: client %d comes to %v", w, i, all)
			}
		}
	}
}

// The time begins anew with each connection, and when it is over the client is drawn for again.
func TestAffinityEnds(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n, _ := affine(t, mesh.BalancerNFT, affinityBrief)
	testAffinityEnds(t, n, allWays())
	time.Sleep(affinityBrief + 2*time.Second) // the kernel collects what is over once a second
	for _, name := range []string{"affine4", "affine6"} {
		text, err := n.sbox().Run(t.Context(), "nft", "list", "map", "inet", plan.TableName, name)
		if err != nil || strings.Contains(text, "expires") {
			t.Errorf("something is still remembered, %v: %s", err, text)
		}
	}
}

// IPVS keeps a client also as long as it knows one of its connections.
func TestAffinityEndsIPVS(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	n, _ := affine(t, mesh.BalancerIPVS, affinityBrief)
	n.edit = func(p *plan.Plan) { p.Sandbox(plan.IngressSandbox, plan.KindIngress).Timeouts.UDP = time.Second }
	n.round()
	testAffinityEnds(t, n, slices.DeleteFunc(allWays(), func(w way) bool { return w.proto == "tcp" }))
}

const affinityBrief = 2 * time.Second

func testAffinityEnds(t *testing.T, n *oneNode, w []way) {
	t.Helper()
	const long = affinityBrief
	had := map[way]string{}
	for range 6 {
		for _, w := range w {
			name := n.mustAsk(w, 0)
			if had[w] != "" && had[w] != name {
				t.Errorf("%s: the client is moved from %s to %s although it came all the time", w, had[w], name)
			}
			had[w] = name
		}
		time.Sleep(long / 4)
	}
	before := map[way][]string{}
	for _, w := range w {
		before[w] = n.askAll(w)
	}
	time.Sleep(long + long/2)
	for _, w := range w {
		if slices.Equal(before[w], n.askAll(w)) {
			t.Errorf("%s: all clients come where they came, after %s", w, long)
		}
	}
}

// Where no more clients can be remembered the others are balanced all the same.
func TestAffinityFull(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n, _ := affine(t, mesh.BalancerNFT, mesh.AffinityDefault)
	const room = 10
	n.edit = func(p *plan.Plan) {
		for _, s := range p.Sandbox(plan.IngressSandbox, plan.KindIngress).Table("inet").Sets {
			if s.Learned > 0 {
				s.Learned = room
			}
		}
	}
	n.askAll(allWays()[0])
	n.round() // with a smaller map nothing of the old one can stay
	for _, w := range allWays() {
		if w.proto == "udp" {
			continue // it shares the map with tcp
		}
		had := n.askAll(w)
		if names := distinct(had[room:]); len(names) < 2 {
			t.Errorf("%s: those who are not remembered come to %v only", w, names)
		}
		if got := n.askAll(w); !slices.Equal(got[:room], had[:room]) {
			t.Errorf("%s: those who are remembered come to %v, before to %v", w, got[:room], had[:room])
		}
	}
}

// A service that loses its affinity draws for each connection; one that gains it keeps.
func TestAffinityChanges(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n, web := affine(t, mesh.BalancerNFT, mesh.AffinityDefault)
	n.world.Change(web, func(s *mesh.Service) { s.Affinity = 0 })
	if loads(n.round()) {
		t.Error("rules were loaded for what elements can say")
	}
	w := allWays()[0]
	var names []string
	for range 40 {
		names = append(names, n.mustAsk(w, 0))
	}
	if len(distinct(names)) != 3 {
		t.Errorf("without affinity a client comes to %v only", distinct(names))
	}
	n.world.Change(web, func(s *mesh.Service) { s.Affinity, s.Scheduler = time.Hour, mesh.Maglev })
	n.round()
	if had := n.askAll(w); !slices.Equal(had, n.askAll(w)) || len(distinct(had)) != 3 {
		t.Errorf("with both, affinity and a consistent choice, clients come to %v", had)
	}
}
