package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// pulse follows the other nodes: it asks the kernel of each that has endpoints in the
// mesh, and joins the answers with what gossip hears. It asks all the time, so that the
// kernel's answer is there when gossip gives a node up. One goroutine and one socket
// serve all nodes. Safe for concurrent use.
type pulse struct {
	cluster *cluster
	applied func() *mesh.Snapshot // that the kernel was last made equal to: it leads to the nodes in it
	echo    kernel.Echoer         // run's alone
	knocks  *knocks               // nil: who cannot be asked through the tunnel is not asked
	log     *slog.Logger

	mu     sync.Mutex
	snap   *mesh.Snapshot // that peers are taken from
	peers  map[mesh.NodeID]*peer
	told   []problem            // at the last turn
	absent map[mesh.NodeID]bool // those that are gone; replaced, never changed
}

// peer is another node.
type peer struct {
	node     *mesh.Node
	addr     netip.Addr // of its sandbox of the ingress network; invalid where it need not have one
	beat     beat
	seen     observation // gossip's, as this turn has it: its verdicts come at any time
	presence presence
	since    time.Time
}

func newPulse(c *cluster, applied func() *mesh.Snapshot, echo kernel.Echoer, log *slog.Logger) *pulse {
	return &pulse{cluster: c, applied: applied, echo: echo, log: log, peers: map[mesh.NodeID]*peer{}}
}

const (
	pulseRest  = time.Second           // at most so long until new nodes are noticed
	pulseBatch = 50 * time.Millisecond // at least so long between two turns that only time caused
)

// run ends with ctx.
func (p *pulse) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	if p.knocks != nil {
		defer p.knocks.tasks.Wait()
	}
	for {
		select {
		case <-ctx.Done():
			return p.echo.Close()
		case <-timer.C:
		case <-p.cluster.heard: // gossip found a node alive or silent
		}
		timer.Reset(p.turn(ctx, p.cluster.now()))
	}
}

// turn takes in all answers before it judges, so that a process that was held up, or
// stopped, blames nobody. It returns how long there is nothing to do.
func (p *pulse) turn(ctx context.Context, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(p.applied(), now)
	p.listen(now)
	next := now.Add(pulseRest)
	for id, peer := range p.peers {
		heard := peer.seen.alive
		peer.seen = p.cluster.liveness(id)
		if heard && !peer.seen.alive {
			peer.beat = peer.beat.afresh(now)
		}
		if !peer.addr.IsValid() && !p.knocksAt(peer, now) {
			continue
		}
		peer.beat = peer.beat.judged(now)
		if peer.beat.ready(now) {
			p.ask(ctx, peer, now)
		}
		if peer.beat.due.Before(next) {
			next = peer.beat.due
		}
	}
	p.conclude(now)
	return max(next.Sub(now), pulseBatch)
}

// follow takes up the nodes of a snapshot. One whose address in the tunnel is another
// one, or which has none, is not known any more.
func (p *pulse) follow(snap *mesh.Snapshot, now time.Time) {
	if snap == p.snap {
		return
	}
	p.snap = snap
	followed := make(map[mesh.NodeID]*peer, len(snap.Nodes))
	for _, n := range snap.Nodes {
		if n.ID == p.cluster.own.ID {
			continue
		}
		known := p.peers[n.ID]
		if known == nil {
			seen := p.cluster.liveness(n.ID)
			known = &peer{seen: seen, since: seen.since, presence: presenceSilent.next(seen, kernelUnknown)}
		}
		if addr := sandboxAddr(snap, n); addr != known.addr {
			// They are not all asked in one moment.
			known.addr, known.beat = addr, beat{due: now.Add(rand.N(echoWait)), newest: uint16(rand.Uint32())}
		}
		known.node = n
		followed[n.ID] = known
	}
	p.peers = followed
}

// sandboxAddr is where a node's sandbox of the ingress network answers; invalid where it
// has no endpoint there, and so no sandbox. Both families use one tunnel, so one is asked:
// IPv4, which needs no neighbour discovery.
func sandboxAddr(snap *mesh.Snapshot, n *mesh.Node) netip.Addr {
	blocks := n.BlocksOf(mesh.IngressNetwork)
	served := slices.ContainsFunc(snap.Local(n.ID), func(e *mesh.Endpoint) bool {
		_, ok := e.On(mesh.IngressNetwork)
		return ok
	})
	if len(blocks) == 0 || !served {
		return netip.Addr{}
	}
	return blocks[0].Gateway4()
}

// listen takes in what has come.
func (p *pulse) listen(now time.Time) {
	asked := make(map[netip.Addr]*peer, len(p.peers))
	for _, peer := range p.peers {
		asked[peer.addr] = peer
	}
	err := p.echo.Receive(func(from netip.Addr, sequence uint16) {
		if peer := asked[from]; peer != nil && peer.addr.IsValid() {
			peer.beat = peer.beat.answered(now, sequence)
		}
	})
	if err != nil {
		for _, peer := range p.peers {
			if peer.addr.IsValid() {
				peer.beat = peer.beat.failed(now, err, pause())
			}
		}
	}
	if p.knocks != nil {
		p.knocks.take(func(one knocked) { p.heardKnock(one, now) })
	}
}

func (p *pulse) heardKnock(one knocked, now time.Time) {
	peer := p.peers[one.node]
	switch {
	case peer == nil || peer.addr.IsValid():
	case one.err != nil:
		peer.beat = peer.beat.failed(now, one.err, pause())
	case one.answered:
		peer.beat = peer.beat.answered(now, one.sequence)
	}
}

// knocksAt tells whether a node is knocked at: one that gossip does not hear. What was found
// before it was heard says nothing about later.
func (p *pulse) knocksAt(peer *peer, now time.Time) bool {
	if p.knocks == nil {
		return false
	}
	if peer.seen.alive {
		peer.beat = beat{due: now, newest: peer.beat.newest}
		return false
	}
	return true
}

func (p *pulse) ask(ctx context.Context, peer *peer, now time.Time) {
	if !peer.addr.IsValid() {
		to := netip.AddrPortFrom(peer.node.Addr, cmp.Or(peer.node.GossipPort, p.cluster.listens().Port()))
		p.knocks.send(ctx, peer.node.ID, to, peer.beat.newest+1)
		peer.beat = peer.beat.asked(now, pause())
		return
	}
	if err := p.echo.Send(peer.addr, peer.beat.newest+1); err != nil {
		peer.beat = peer.beat.failed(now, err, pause())
		return
	}
	peer.beat = peer.beat.asked(now, pause())
}

// pause is echoPeriod, a tenth more or less: nodes that began together do not go on so.
func pause() time.Duration { return echoPeriod*9/10 + rand.N(echoPeriod/5) }

// conclude says what the nodes are now, and wakes the loop where that means another plan
// or another status.
func (p *pulse) conclude(now time.Time) {
	absent := map[mesh.NodeID]bool{}
	for id, peer := range p.peers {
		was := peer.presence
		peer.presence = was.next(peer.seen, peer.beat.answer)
		if peer.presence != was {
			peer.since = now
			p.cluster.events.presence(peer.node.Name, peer.presence)
			p.log.Info("a node is seen otherwise", "node", peer.node.Name, "id", id, "was", was, "is", peer.presence)
		}
		if peer.presence == presenceGone {
			absent[id] = true
		}
	}
	problems := p.findProblems(now)
	news := !maps.Equal(absent, p.absent) || !slices.Equal(problems, p.told)
	p.absent, p.told = absent, problems
	if news {
		p.cluster.wake()
	}
}

// gone are the nodes whose endpoints are no backends here. The caller does not change it.
func (p *pulse) gone() map[mesh.NodeID]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.absent
}

// standing is how a node is seen, and since when.
type standing struct {
	presence presence
	since    time.Time
}

// standing tells how a node is seen. Of one that is not followed yet only gossip knows.
func (p *pulse) standing(id mesh.NodeID) standing {
	p.mu.Lock()
	known := p.peers[id]
	var s standing
	if known != nil {
		s = standing{known.presence, known.since}
	}
	p.mu.Unlock()
	if known != nil {
		return s
	}
	seen := p.cluster.liveness(id)
	return standing{presenceSilent.next(seen, kernelUnknown), seen.since}
}

// problems are what an operator should look at, as of the last turn.
func (p *pulse) problems() []problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told
}

// pulseGrace is how long a kernel does not answer, or cannot be asked, before that is a
// problem: a node's first sandbox takes a moment.
const pulseGrace = 5 * time.Second

// findProblems names what would mislead: a tunnel that does not carry while gossip does,
// and nodes that cannot be asked.
func (p *pulse) findProblems(now time.Time) []problem {
	var list []problem
	unasked, of := 0, 0
	var fault error
	for _, id := range slices.SortedFunc(maps.Keys(p.peers), cmp.Compare[mesh.NodeID]) {
		peer := p.peers[id]
		if !peer.addr.IsValid() && peer.beat.fault == nil {
			continue
		}
		of++
		if now.Sub(peer.beat.since) < pulseGrace {
			continue
		}
		switch {
		case peer.beat.fault != nil:
			unasked++
			fault = cmp.Or(fault, peer.beat.fault)
		case peer.presence == presenceAlive && peer.beat.answer == kernelMute:
			list = append(list, problem{
				problemKey: problemKey{"node " + peer.node.Name, string(TunnelSilent)},
				detail:     p.tunnelAdvice(peer.node),
			})
		}
	}
	if unasked > 0 {
		list = append(list, problem{
			problemKey: problemKey{"echo", string(EchoFailed)},
			detail:     fmt.Sprintf("%d of %d nodes cannot be asked from here (%v): if one dies, its endpoints stay in use", unasked, of, fault),
		})
	}
	return list
}

func (p *pulse) tunnelAdvice(n *mesh.Node) string {
	return fmt.Sprintf("its agent answers, its kernel does not through the tunnel: check that udp %d passes between %s and %s",
		n.VXLANPort, p.cluster.self().Addr, n.Addr)
}
