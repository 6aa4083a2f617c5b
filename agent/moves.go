package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// moves keeps what conntrack remembers in step with where clients come in. An address that
// clients dial may move to another node, as keepalived moves one: their open connections
// come by the other node from then on, and what this one and the endpoints' nodes remember
// of them is in the way there.
//
//	the host loses an address -> its flows are deleted here -> the endpoints' nodes are told
//	a node says so             -> the flows in its zone are deleted here
//
// A node that cannot say so any more is the plan's affair (plan.Zone).
type moves struct {
	cluster *cluster
	machine Machine
	log     *slog.Logger
	telling sync.WaitGroup // a node that does not answer holds up nothing else
}

func newMoves(c *cluster, m Machine, log *slog.Logger) *moves {
	return &moves{cluster: c, machine: m, log: log}
}

const (
	lostSettle = 20 * time.Millisecond  // an address that is back at once is not lost; several may go together
	lostPause  = 100 * time.Millisecond // between two looks at all of the host's flows
)

// run ends with ctx. It looks once at the beginning: an address may have gone while no
// agent was here.
func (m *moves) run(ctx context.Context) error {
	defer m.telling.Wait()
	look := time.NewTimer(0)
	defer look.Stop()
	lost := m.machine.Lost()
	for {
		select {
		case <-ctx.Done():
			return nil
		case over := <-m.cluster.over:
			m.forget(over)
		case <-lost:
			look.Reset(lostSettle)
			lost = nil // until that look
		case <-look.C:
			m.look(ctx)
			if lost == nil {
				lost = m.machine.Lost()
				m.rest(ctx)
			}
		}
	}
}

// rest bounds how often a host whose addresses come and go is looked at.
func (m *moves) rest(ctx context.Context) {
	timer := time.NewTimer(lostPause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case over := <-m.cluster.over:
			m.forget(over)
		case <-timer.C:
			return
		}
	}
}

// look finds the flows of addresses that this host lost, and tells the nodes of their endpoints.
func (m *moves) look(ctx context.Context) {
	lost, err := m.machine.ForgetLost()
	if err != nil {
		m.log.Error("flows of a lost address were not all deleted", "err", err)
	}
	if len(lost) == 0 {
		return
	}
	over := mesh.Over{Node: m.cluster.own.ID}
	for _, s := range lost {
		if sender := (mesh.Sender{Proto: mesh.Proto(s.Proto), Client: s.Client}); sender.Valid() {
			over.Senders = append(over.Senders, sender)
		}
	}
	if len(over.Senders) == 0 {
		return
	}
	m.log.Info("flows of a lost address are over", "flows", len(lost))
	m.forget(over) // those to this node's own endpoints
	m.telling.Go(func() { m.tell(ctx, over) })
}

const (
	tellWait = 5 * time.Second        // for nodes that are not members: an agent that begins has none yet
	tellStep = 250 * time.Millisecond // between two looks whether they are
)

// tell tells each node that has endpoints once, as soon as gossip hears it.
func (m *moves) tell(ctx context.Context, over mesh.Over) {
	ctx, cancel := context.WithTimeout(ctx, tellWait)
	defer cancel()
	untold := m.cluster.endpointNodes()
	for {
		var now []mesh.NodeID
		untold = slices.DeleteFunc(untold, func(id mesh.NodeID) bool {
			alive := m.cluster.liveness(id).alive
			if alive {
				now = append(now, id)
			}
			return alive
		})
		if len(now) > 0 {
			if err := m.cluster.tellOver(ctx, over, now); err != nil {
				m.log.Error("a node was not told that flows are over", "err", err)
			}
		}
		if len(untold) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			m.log.Warn("nodes that gossip does not hear were not told that flows are over", "nodes", untold)
			return
		case <-time.After(tellStep):
		}
	}
}

// forget deletes the flows to endpoints here that came by the node which says that they are over.
func (m *moves) forget(over mesh.Over) {
	snap := m.cluster.snapshot()
	node, ingress := snap.Node(over.Node), snap.Network(mesh.IngressNetwork)
	if node == nil || node.Slot == 0 || ingress == nil {
		return
	}
	senders := make([]kernel.Sender, len(over.Senders))
	for i, s := range over.Senders {
		senders[i] = kernel.Sender{Proto: string(s.Proto), Client: s.Client}
	}
	if err := m.machine.ForgetOver(plan.NetworkSandbox(uint32(ingress.VNI)), uint16(node.Slot), senders); err != nil {
		m.log.Error("flows by another node were not all deleted", "node", node.Name, "err", err)
	}
}

// oversWaiting bounds what others can make this node keep. What is lost is a connection
// that ends with a reset.
const oversWaiting = 64

// FlowsOver takes a node's word that flows which came by it are over.
func (c *cluster) FlowsOver(over mesh.Over) {
	select {
	case c.over <- over:
	default:
		c.log.Warn("too many flows are over at once", "node", over.Node, "left", len(over.Senders))
	}
}

// endpointNodes are the other nodes that have endpoints in the mesh.
func (c *cluster) endpointNodes() []mesh.NodeID {
	snap := c.snapshot()
	var nodes []mesh.NodeID
	for _, n := range snap.Nodes {
		if n.ID != c.own.ID && sandboxAddr(snap, n).IsValid() {
			nodes = append(nodes, n.ID)
		}
	}
	return nodes
}

// tellOver tells nodes that gossip hears.
func (c *cluster) tellOver(ctx context.Context, over mesh.Over, nodes []mesh.NodeID) error {
	c.mu.Lock()
	g := c.members
	c.mu.Unlock()
	if g == nil {
		return nil
	}
	if err := g.TellOver(ctx, over, nodes); err != nil {
		return fmt.Errorf("%d flows: %w", len(over.Senders), err)
	}
	return nil
}
