package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// heldPorts is what is known of published ports that somebody else on the host has. First
// come, first served: a port that is captured stays so, whoever binds it later, also
// when rules were flushed meanwhile, or the agent was not there. For whoever has the
// machine in hand.
type heldPorts struct {
	now      []mesh.HeldPort      // as of the last look
	captured map[kernel.Port]bool // by the last round; nil: not known, the kernel's own sets tell
	allOf    uint64               // revision of the snapshot whose ports are all captured; 0: not all are
}

// notLooked is who has a port that could not be looked at: rather nobody answers on it
// for a moment than that something is cut off for good.
const notLooked = "an unknown process (the look failed)"

// look finds out who has the ports that are not captured yet.
func (h *heldPorts) look(m Machine, snap *mesh.Snapshot) error {
	if h.captured == nil {
		ports, err := m.Captured()
		if err != nil {
			return fmt.Errorf("look for captured ports: %w", err)
		}
		h.captured = map[kernel.Port]bool{}
		for _, p := range ports {
			h.captured[p] = true
		}
	}
	h.now = nil
	if h.allOf != 0 && h.allOf == snap.Rev {
		return nil
	}
	var fresh []kernel.Port
	for _, f := range snap.Fronts {
		if p := toPort(f.Port); !h.captured[p] {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	held, err := m.Held(fresh)
	if err != nil {
		held = nil
		for _, p := range fresh {
			held = append(held, kernel.Holding{Port: p, By: notLooked})
		}
		err = fmt.Errorf("look for held ports: %w", err)
	}
	for _, p := range held {
		h.now = append(h.now, mesh.HeldPort{Addr: p.Addr, Proto: mesh.Proto(p.Proto), Published: p.Number, By: p.By})
	}
	return err
}

// applied notes what a round has captured. One that could not change the host's rules
// has captured nothing new.
func (h *heldPorts) applied(snap *mesh.Snapshot, report kernel.Report) {
	hostRules := func(f kernel.Failure) bool { return strings.HasPrefix(f.Object, plan.HostSandbox+": nft") }
	switch {
	case h.captured == nil || h.allOf != 0 && h.allOf == snap.Rev:
		return
	case slices.ContainsFunc(report.Failed, hostRules):
		h.allOf = 0
		return
	}
	h.allOf, h.captured = 0, make(map[kernel.Port]bool, len(snap.Fronts))
	if len(h.now) == 0 {
		h.allOf = snap.Rev
	}
	for _, f := range snap.Fronts {
		h.captured[toPort(f.Port)] = true
	}
	for _, p := range h.now {
		delete(h.captured, toPort(p.Port()))
	}
}

func toPort(p mesh.PublishedPort) kernel.Port {
	return kernel.Port{Addr: p.Addr, Proto: string(p.Proto), Number: p.Published}
}

// tellHeld lets the others know what is held here, where that has changed.
func (c *cluster) tellHeld(held []mesh.HeldPort) error {
	reported := mesh.Reported(held)
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		own := c.ownNode()
		if snap.Node(own.ID) == nil || slices.Equal(own.Held, reported) {
			return nil, nil
		}
		return []mesh.Record{mesh.NodeRecord(own.WithHeld(reported))}, nil
	})
	if mesh.ReasonOf(err) == NoCluster {
		return nil
	}
	return err
}

// reportWait is how long a call waits for what other nodes say of ports that were just
// published. They hear of them at once, look, and answer; a node that has nothing to
// say says nothing.
const reportWait = time.Second

// hearHolders gives the nodes that are alive time to say that somebody has one of the ports.
func (a *api) hearHolders(ctx context.Context, ports []mesh.PublishedPort) {
	others := func(n *mesh.Node) bool { return n.ID != a.cluster.own.ID && a.cluster.liveness(n.ID).alive }
	if len(ports) == 0 || !slices.ContainsFunc(a.cluster.snapshot().Nodes, others) {
		return
	}
	select {
	case <-time.After(reportWait):
	case <-ctx.Done(): // what was asked for is done
	}
}

func toHeld(n *mesh.Node) []*sluicev1.HeldPort {
	var held []*sluicev1.HeldPort
	for _, h := range n.Held {
		held = append(held, toHeldPort(mesh.Holder{Node: n, HeldPort: h}))
	}
	return held
}

func toHeldPort(h mesh.Holder) *sluicev1.HeldPort {
	out := &sluicev1.HeldPort{Node: h.Node.Name, Protocol: string(h.Proto), Published: uint32(h.Published), Holder: h.By}
	if h.Addr.IsValid() {
		out.Address = h.Addr.String()
	}
	return out
}
