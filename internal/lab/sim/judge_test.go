package sim

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/mesh"
)

// inWorld runs f in a world of so many nodes that agree.
func inWorld(t *testing.T, nodes int, f func(w *World, d digests)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w, err := NewWorld(Options{Seed: 1, Nodes: nodes})
		d := digests{}
		if err == nil {
			_, err = Within(time.Minute, 50*time.Millisecond, func() error { return errors.Join(w.Seen(), w.Agreed(d)) })
		}
		if err == nil {
			f(w, d)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			t.Error(err)
		}
	})
}

func create(t *testing.T, w *World, node int, name string, ports ...string) mesh.ServiceID {
	t.Helper()
	id, err := w.Nodes[node].plane.Load().CreateService(name, nil, ports)
	if err != nil {
		t.Error(err)
	}
	return id
}

// What is not so is seen: a simulator that finds nothing would find all well.
func TestJudgeSees(t *testing.T) {
	inWorld(t, 3, func(w *World, d digests) {
		if err := w.Sound(); err != nil {
			t.Errorf("a new world is not sound: %v", err)
		}
		for _, to := range w.Nodes[:2] {
			w.Net.Cut(w.Nodes[2].at.Addr(), to.at.Addr())
			w.Net.Cut(to.at.Addr(), w.Nodes[2].at.Addr())
		}
		id := create(t, w, 0, "web", "8000:80")
		time.Sleep(time.Millisecond)
		other := create(t, w, 2, "web", "8000:80")
		time.Sleep(10 * time.Second)
		if err := w.Agreed(d); err == nil || !strings.Contains(err.Error(), "n2 differ") {
			t.Errorf("a split world agrees: %v", err)
		}
		if err := w.Seen(); err == nil {
			t.Error("all are seen in a split world")
		}
		w.heal()
		if took, err := Within(agreeWithin, 50*time.Millisecond, func() error { return w.Agreed(d) }); err != nil {
			t.Errorf("after %v: %v", took, err)
		}
		if err := w.Sound(); err != nil {
			t.Errorf("one name and port on both sides: %v", err)
		}
		snap := w.Nodes[1].plane.Load().Snapshot()
		if held := snap.ServiceNamed("web"); held == nil || held.ID != id || len(snap.Conflicts) != 2 || len(snap.Fronts) != 1 {
			t.Errorf("the older claim is %s of %s: %+v", id, other, snap.Conflicts)
		}
		w.book.create(w.Nodes[0], endpointKey("d000000000000001"), serviceKey(id), nil)
		w.book.end(w.Nodes[0], serviceKey(other), nil)
		err := w.Sound()
		for _, want := range []string{"d000000000000001, made on n0, is lost", string(other) + ", ended on n0, lives"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("broken promises give %v", err)
			}
		}
	})
}

// Two owners of one thing are found in a state that no cluster would come to.
func TestJudgeFindsTwoOwners(t *testing.T) {
	inWorld(t, 2, func(w *World, _ digests) {
		id := create(t, w, 0, "web", "8000:80")
		p := w.Nodes[0].plane.Load()
		for _, name := range []string{"web.1", "web.2"} {
			if _, _, err := p.Attach("web", name); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		snap := p.Snapshot()
		if err := errors.Join(oneOwner(snap), inBlocks(snap, w.live())); err != nil || len(snap.EndpointsOf(id)) != 2 {
			t.Errorf("%d endpoints: %v", len(snap.EndpointsOf(id)), err)
		}
		bad := *snap
		twin, moved := *snap.Endpoints[0], *snap.Endpoints[1]
		twin.ID, moved.Node = "d00000000000000f", w.Nodes[1].plane.Load().ID()
		bad.Endpoints = append([]*mesh.Endpoint{&twin, &moved}, snap.Endpoints...)
		bad.Fronts = append([]mesh.Front{{Service: &mesh.Service{ID: "c00000000000000f"}, Port: snap.Fronts[0].Port}}, snap.Fronts...)
		err := errors.Join(oneOwner(&bad), inBlocks(&bad, w.live()))
		for _, want := range []string{"address", "name", "port tcp/8000", "no block with it"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in %v", want, err)
			}
		}
	})
}

// A disk that fails makes writes fail and loses nothing else; one that is lost makes a new node.
func TestDisks(t *testing.T) {
	inWorld(t, 3, func(w *World, d digests) {
		n := w.Nodes[1]
		n.broken.Store(true)
		failed := 0
		for range 20 {
			if _, err := n.plane.Load().CreateService("web", nil, nil); errors.Is(err, errDisk) {
				failed++
			}
		}
		if failed == 0 {
			t.Error("no write failed on a broken disk")
		}
		n.broken.Store(false)
		create(t, w, 1, "kept")
		before := n.plane.Load().ID()
		n.crash()
		n.start(w.ctx)
		if p := n.plane.Load(); p.ID() != before || p.Snapshot().ServiceNamed("kept") == nil {
			t.Error("a killed node has lost its disk")
		}
		n.wipe()
		n.start(w.ctx)
		if n.plane.Load().ID() == before {
			t.Error("a node without its disk is the same")
		}
		if _, err := Within(agreeWithin, 50*time.Millisecond, func() error { return w.Agreed(d) }); err != nil {
			t.Error(err)
		}
		if err := w.Nodes[0].plane.Load().Forget(before); err != nil {
			t.Error(err)
		}
	})
}

// The plan of a seed is always the same, and plans of many seeds have every kind of fault.
func TestPlan(t *testing.T) {
	all := ""
	for seed := range uint64(100) {
		s := Plan(seed, 3, 25)
		if again := Plan(seed, 3, 25); again.String() != s.String() {
			t.Fatalf("seed %d gives\n%s and\n%s", seed, s, again)
		}
		if s.Nodes < 3 || s.Nodes > 25 {
			t.Errorf("seed %d has %d nodes", seed, s.Nodes)
		}
		all += s.String()
	}
	for _, want := range []string{
		"kill", "stop", "no power", "as everywhere", "pause", "disk errors", "disk lost", "clock steps by -", "weather: good",
		"from the rest", "not heard by the rest", "both ways false", "cut: mended", "network create", "network rm", "service create",
		"service update", "service rm", "endpoint attach", "endpoint detach", "node rm n", "node rm of one",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no plan has %q", want)
		}
	}
}

// A refused write changes nothing, and says why.
func TestWritesAreRefused(t *testing.T) {
	inWorld(t, 1, func(w *World, _ digests) {
		p := w.Nodes[0].plane.Load()
		create(t, w, 0, "web", "8000:80")
		before := p.Snapshot().Rev
		for name, c := range map[string]struct {
			f    func(*agent.Plane) error
			want mesh.Reason
		}{
			"name":     {func(p *agent.Plane) error { _, err := p.CreateService("web", nil, nil); return err }, mesh.NameTaken},
			"port":     {func(p *agent.Plane) error { _, err := p.CreateService("x", nil, []string{"8000:80"}); return err }, mesh.PortTaken},
			"service":  {func(p *agent.Plane) error { _, err := p.RemoveService("x"); return err }, mesh.NotFound},
			"endpoint": {func(p *agent.Plane) error { _, err := p.Detach("x"); return err }, mesh.NotFound},
			"node":     {func(p *agent.Plane) error { return p.Forget(p.ID()) }, mesh.NotFound},
			"network":  {func(p *agent.Plane) error { return p.RemoveNetwork("ingress") }, mesh.NotFound},
		} {
			if err := c.f(p); mesh.ReasonOf(err) != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
		if p.Snapshot().Rev != before {
			t.Error("a refused write changed the state")
		}
	})
}
