package agent

import (
	"context"
	"fmt"
	"iter"
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
	wanted   []mesh.PublishedPort // that the last look was for
}

// notLooked is who has a port that could not be looked at: rather nobody answers on it
// for a moment than that something is cut off for good.
const notLooked = "an unknown process (the look failed)"

// look finds out who has the ports that are not captured yet. hosted are the node's own.
func (h *heldPorts) look(m Machine, snap *mesh.Snapshot, hosted mesh.Hosting) error {
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
	h.wanted = answered(snap, hosted)
	var fresh []kernel.Port
	front := map[kernel.Port]mesh.PublishedPort{}
	for _, p := range h.wanted {
		for one := range numbers(p) {
			if !h.captured[one] {
				fresh = append(fresh, one)
				front[one] = p
			}
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
		if next := toHolding(front[p.Port], p); !slices.ContainsFunc(h.now, func(o mesh.HeldPort) bool { return o.Of(front[p.Port]) }) {
			h.now = append(h.now, next)
		}
	}
	return err
}

// toHolding is who has a published port. A range is held as a whole by who has one of its ports,
// as it is published as a whole: it stands under its first.
func toHolding(p mesh.PublishedPort, by kernel.Holding) mesh.HeldPort {
	who := by.By
	if p.Last != 0 {
		who = fmt.Sprintf("%s, which has %d", who, by.Number)
		if len(who) > kernel.HolderLimit {
			who = who[len(who)-kernel.HolderLimit:]
		}
	}
	return mesh.HeldPort{Addr: p.Addr, Proto: p.Proto, Published: p.Published, By: who}
}

// answered are the ports on which this node is to answer: those of the mesh, and those of mode host
// that its own endpoints have.
func answered(snap *mesh.Snapshot, hosted mesh.Hosting) []mesh.PublishedPort {
	ports := make([]mesh.PublishedPort, 0, len(snap.Fronts))
	for _, f := range snap.Fronts {
		if f.Port.Mode == mesh.Meshed {
			ports = append(ports, f.Port)
		}
	}
	for _, f := range hosted.Held {
		ports = append(ports, f.Port)
	}
	return ports
}

// numbers are the ports of a publication: one, or those of a range.
func numbers(p mesh.PublishedPort) iter.Seq[kernel.Port] {
	return func(yield func(kernel.Port) bool) {
		for n := int(p.Published); n <= int(p.End()); n++ {
			if !yield(kernel.Port{Addr: p.Addr, Proto: string(p.Proto), Number: uint16(n)}) {
				return
			}
		}
	}
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
	h.allOf, h.captured = 0, make(map[kernel.Port]bool, len(h.wanted))
	if len(h.now) == 0 {
		h.allOf = snap.Rev
	}
	for _, p := range h.wanted {
		if slices.ContainsFunc(h.now, func(o mesh.HeldPort) bool { return o.Of(p) }) {
			continue
		}
		for one := range numbers(p) {
			h.captured[one] = true
		}
	}
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

// unanswered are the ports of mode host on which this node does not answer for an endpoint of its
// own: they are another endpoint's here, or somebody else on the host has them.
func unanswered(snap *mesh.Snapshot, e *mesh.Endpoint) []*sluicev1.HeldPort {
	node, service := snap.Node(e.Node), snap.Service(e.Service)
	if node == nil || service == nil {
		return nil
	}
	var list []*sluicev1.HeldPort
	hosted := snap.Hosted(e.Node)
	for _, f := range hosted.Lost {
		if f.Endpoint.ID != e.ID {
			continue
		}
		by := "another endpoint"
		if i := slices.IndexFunc(hosted.Held, func(o mesh.HostedFront) bool { return o.Port.Overlaps(f.Port) }); i >= 0 {
			by = "endpoint " + hosted.Held[i].Endpoint.Name
		}
		list = append(list, toHeldPort(mesh.Holder{Node: node, HeldPort: mesh.HeldPort{Addr: f.Port.Addr, Proto: f.Port.Proto, Published: f.Port.Published, By: by}}))
	}
	for _, f := range hosted.Held {
		i := slices.IndexFunc(node.Held, func(h mesh.HeldPort) bool { return h.Of(f.Port) })
		if f.Endpoint.ID == e.ID && i >= 0 {
			list = append(list, toHeldPort(mesh.Holder{Node: node, HeldPort: node.Held[i]}))
		}
	}
	return list
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
