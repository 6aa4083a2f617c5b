package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// World is a cluster of simulated nodes. It lives in one synctest bubble, from NewWorld to
// Close, and its methods are for the goroutine that made it.
type World struct {
	Net   *Network
	Nodes []*Node

	token     string
	removals  bool
	log       *slog.Logger
	ctx       context.Context // ends when all is to end
	cancel    context.CancelFunc
	tasks     sync.WaitGroup
	operators sync.WaitGroup // who give nodes something to do

	mu     sync.Mutex // of what is below
	rand   *rand.Rand
	faults []error // what may not happen, and did
	book   book
}

// Options are what a World is made of.
type Options struct {
	Seed  uint64
	Nodes int
	Log   *slog.Logger // nil: nothing is logged

	// Removals lets operators put nodes that lost their disk out for good, which gives all
	// others new keys, instead of only deleting their records.
	Removals bool
}

// NewWorld starts the nodes and makes them one cluster by the first.
func NewWorld(o Options) (*World, error) {
	w := &World{Net: NewNetwork(o.Seed), log: o.Log, removals: o.Removals, rand: rand.New(rand.NewPCG(o.Seed, 1)), book: newBook()}
	if w.log == nil {
		w.log = quiet()
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for i := range o.Nodes {
		n := newNode(w, i)
		w.Nodes = append(w.Nodes, n)
		w.tasks.Go(n.run)
	}
	first := w.Nodes[0]
	p, err := first.open()
	if err != nil {
		return w, err
	}
	first.plane.Store(p)
	if w.token, err = p.Init(w.ctx); err != nil {
		return w, err
	}
	if w.removals {
		w.operators.Go(w.readmit)
	}
	var joining sync.WaitGroup
	for _, n := range w.Nodes[1:] {
		joining.Go(func() {
			sleep(w.ctx, w.part(joinSpread))
			n.start(w.ctx)
		})
	}
	joining.Wait()
	return w, nil
}

// readmit is the operator of nodes that the others do not take for theirs any more.
func (w *World) readmit() {
	for w.ctx.Err() == nil {
		sleep(w.ctx, retryPause)
		for _, n := range w.Nodes {
			p := n.plane.Load()
			if p == nil {
				continue
			}
			if _, out := p.Outcast(); !out {
				continue
			}
			select {
			case n.todo <- func() { n.again(w.ctx, p) }:
			case <-w.ctx.Done():
			}
		}
	}
}

// joinSpread is within which time the nodes of a new world join.
const joinSpread = 500 * time.Millisecond

// Close ends every node and waits until nothing of the world runs any more.
func (w *World) Close() error {
	w.cancel()
	w.operators.Wait()
	w.Net.Mend()
	w.Net.SetWeather(Weather{})
	for _, n := range w.Nodes {
		n.resume()
		n.todo <- n.stop
		close(n.todo)
	}
	w.tasks.Wait()
	// memberlist leaves timers and probes behind, which end by themselves.
	time.Sleep(3 * time.Minute)
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.faults...)
}

// check notes an error of what cannot fail.
func (w *World) check(what string, err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Errorf("%s: %w", what, err))
}

func (w *World) note(text string, args ...any) {
	w.log.Info("world", append([]any{"what", text}, args...)...)
}

func (w *World) coin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(2) == 0
}

func (w *World) part(of time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rand.Int64N(int64(of)))
}

// another is a member to join by, that at an address if it is one, or nil.
func (w *World) another(than *Node, best netip.AddrPort) *Node {
	member := func(n *Node) bool {
		p := n.plane.Load()
		return n != than && p != nil && !n.paused.Load() && p.Snapshot().Node(p.ID()) != nil
	}
	if i := slices.IndexFunc(w.Nodes, func(n *Node) bool { return n.at == best }); i >= 0 && member(w.Nodes[i]) {
		return w.Nodes[i]
	}
	w.mu.Lock()
	order := w.rand.Perm(len(w.Nodes))
	w.mu.Unlock()
	for _, i := range order {
		if member(w.Nodes[i]) {
			return w.Nodes[i]
		}
	}
	return nil
}

// heal ends every fault: what is down starts again. Clocks stay as wrong as they are.
func (w *World) heal() {
	w.Net.Mend()
	w.Net.SetWeather(Weather{})
	for _, n := range w.Nodes {
		n.broken.Store(false)
		n.resume()
		n.todo <- func() { n.start(w.ctx) }
	}
}

// live are the nodes that run, by ID.
func (w *World) live() map[mesh.NodeID]*Node {
	live := map[mesh.NodeID]*Node{}
	for _, n := range w.Nodes {
		if p := n.plane.Load(); p != nil {
			live[p.ID()] = n
		}
	}
	return live
}
