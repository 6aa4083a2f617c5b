package gossip

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// How often states are compared: gossip loses messages, and this is what makes up for it.
const (
	entropyPeriod = 2 * time.Second       // mean time between two exchanges that this node begins
	hurryPause    = 50 * time.Millisecond // once to twice this, before the next where something moved
	callLimit     = 4                     // exchanges begun here, at once: some peers may not answer
	dialTimeout   = 2 * time.Second       // a lost SYN is sent again after one
	membersPeriod = time.Second           // least time between two exchanges of members that this asks for
)

// entropy is what the exchanges of one node share. Safe for concurrent use.
type entropy struct {
	secure  Secure
	turns   *turns
	refused *refused
	hurry   chan struct{} // holds one token while something has moved

	mu      sync.Mutex
	calling map[netip.AddrPort]bool
	aligned time.Time // when members were last exchanged because they differed
}

func newEntropy(secure Secure, wall func() time.Time) *entropy {
	return &entropy{secure: secure, turns: newTurns(), refused: newRefused(wall), hurry: make(chan struct{}, 1), calling: map[netip.AddrPort]bool{}}
}

// compare begins exchanges until the node leaves: with any node that there should be, since
// a member list is wrong when it matters most, and at once with a living one while
// something moves.
func (g *Gossip) compare() {
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := make(chan struct{}, callLimit)
	call := func(peers []netip.AddrPort) {
		if len(peers) == 0 {
			return
		}
		peer := peers[rand.IntN(len(peers))]
		select {
		case slots <- struct{}{}:
			calls.Go(func() { g.call(peer); <-slots })
		default: // those that do not answer give up in a moment
		}
	}
	regular := time.NewTimer(jitter(entropyPeriod))
	defer regular.Stop()
	for {
		select {
		case <-g.leaving.Done():
			return
		case <-regular.C:
			regular.Reset(jitter(entropyPeriod))
			call(g.known())
		case <-g.entropy.hurry:
			// More moves in a moment, and others that were told the same shall not ask all at once.
			if !sleep(g.leaving, hurryPause+rand.N(hurryPause)) {
				return
			}
			call(g.members.addrs())
		}
	}
}

// jitter spreads what nodes that were started or split at one time do.
func jitter(mean time.Duration) time.Duration { return mean/2 + rand.N(mean) }

// sleep tells whether it came to an end before ctx did.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// expect reads from the records who is to be let in, and returns where they are.
func (g *Gossip) expect() []netip.AddrPort {
	peers := slices.Clone(g.state.Peers())
	g.link.door.expect(peers)
	g.members.expect(g.state.Nodes())
	return peers
}

// known are the nodes of the records and the members, without this node.
func (g *Gossip) known() []netip.AddrPort {
	peers := append(g.expect(), g.members.addrs()...)
	slices.SortFunc(peers, netip.AddrPort.Compare)
	return slices.DeleteFunc(slices.Compact(peers), func(a netip.AddrPort) bool { return a == g.self })
}

// call exchanges with a peer that may be away. Where it is, or is busy, a living one is next.
func (g *Gossip) call(peer netip.AddrPort) {
	if err := g.exchange(g.ctx, peer); err != nil {
		g.book.Debug("records not exchanged", "peer", peer, "err", err)
		if !g.members.at(peer) || mesh.ReasonOf(err) == Busy {
			signal(g.entropy.hurry)
		}
	}
}

// exchange makes this node and a peer hold the same records, as far as both take them.
func (g *Gossip) exchange(ctx context.Context, peer netip.AddrPort) error {
	if !g.entropy.begin(peer) {
		return mesh.Refuse(Busy, "nothing: it is tried again", "an exchange with %s is under way", peer)
	}
	defer g.entropy.end(peer)
	ctx, cancel := context.WithTimeout(ctx, talkTimeout)
	defer cancel()
	plain, err := g.link.DialTimeout(peer.String(), dialTimeout)
	if err != nil {
		return err
	}
	defer plain.Close()
	greeting, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	conn, id, err := g.entropy.secure.Dial(greeting, plain)
	if err != nil {
		return fmt.Errorf("protect stream to %s: %w", peer, err)
	}
	defer conn.Close()
	if id == g.id {
		return mesh.Refuse(mesh.BadRecord, "remove the node's data directory where it was copied", "the node at %s has the ID of this one", peer)
	}
	x := g.newExchange(newTalk(conn), id)
	theirs, err := x.begin()
	g.moved(x.moved)
	if err != nil {
		return fmt.Errorf("exchange records with %s at %s: %w", id, peer, err)
	}
	if theirs.members != x.ours.members {
		g.align(peer)
	}
	return nil
}

func (g *Gossip) newExchange(t *talk, peer mesh.NodeID) *exchange {
	members := sha256.New()
	for _, id := range g.members.ids() {
		members.Write([]byte(id))
	}
	ours := hello{version: entropyVersion, now: g.state.Now(), members: mesh.Sum(members.Sum(nil))}
	ours.root, ours.count = g.state.Root(), uint32(g.state.Count()) // after now
	return &exchange{talk: t, self: g.id, peer: peer, state: g.state, refused: g.entropy.refused, take: g.in.take, book: g.book, ours: ours}
}

// moved makes the next exchange follow at once where this one was of use.
func (g *Gossip) moved(records int) {
	if records > 0 {
		signal(g.entropy.hurry)
	}
}

// align lets memberlist exchange its list with a node that has another one. memberlist
// alone would not end a long split, and takes long to tell all of a large one.
func (g *Gossip) align(peer netip.AddrPort) {
	e := g.entropy
	e.mu.Lock()
	due := time.Since(e.aligned) >= membersPeriod
	if due {
		e.aligned = time.Now()
	}
	e.mu.Unlock()
	if !due || g.leaving.Err() != nil {
		return
	}
	if _, err := g.list.Join([]string{peer.String()}); err != nil {
		g.book.Debug("members not exchanged", "peer", peer, "err", err)
	}
}

// begin tells whether no exchange with the peer was under way.
func (e *entropy) begin(peer netip.AddrPort) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calling[peer] {
		return false
	}
	e.calling[peer] = true
	return true
}

func (e *entropy) end(peer netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.calling, peer)
}

// serve is the other end of exchange; it ends the stream.
func (g *Gossip) serve(guest *guest) {
	defer guest.Close()
	ctx, cancel := context.WithCancel(g.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = guest.Close() })()
	greeting, done := context.WithTimeout(ctx, streamTimeout)
	defer done()
	conn, id, err := g.entropy.secure.Accept(greeting, guest)
	if err == nil {
		defer conn.Close()
		guest.name()
		err = g.answer(ctx, newTalk(conn), id)
	}
	if err != nil && !isServed(err) && g.ctx.Err() == nil {
		g.book.Warn("stream refused", "from", guest.from, "node", id, "err", err)
	}
}

func (g *Gossip) answer(ctx context.Context, t *talk, id mesh.NodeID) error {
	if id == g.id {
		return mesh.Refuse(mesh.BadRecord, "remove the node's data directory where it was copied", "a node has the ID of this one")
	}
	back := g.entropy.turns.take(ctx, id, t.conn)
	if back == nil {
		return t.write(frameBusy, nil)
	}
	defer back()
	x := g.newExchange(t, id)
	err := x.serve()
	g.moved(x.moved)
	return err
}
