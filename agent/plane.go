package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// Plane is the state plane of an agent: records, disk, gossip and the rounds in which the
// node settles its claims. It is what Run runs, without a kernel and an API below and above it,
// so that many fit into one process. Its methods are safe for concurrent use.
type Plane struct {
	cluster *cluster
	cancel  context.CancelFunc
	ended   chan struct{} // closed when no round will come
}

// PlaneConfig is what a Plane is made from. All fields but Fault are required.
type PlaneConfig struct {
	Disk    *Medium        // who the node is, is on it
	Name    string         // of the node
	Gossip  netip.AddrPort // where the others reach it
	Network gossip.Network
	Now     func() time.Time // the wall clock
	Log     *slog.Logger

	// Fault is asked before each write of the store and after it; its error is the write's.
	// It must not block, and is not asked twice at a time.
	Fault func() error
}

// planeMTU and planeVXLAN are what the node says of a data path that it does not have.
const (
	planeMTU   = 1500
	planeVXLAN = DefaultVXLANPort
)

// OpenPlane starts a node: in the cluster that its store knows, or in none.
func OpenPlane(cfg PlaneConfig) (*Plane, error) {
	if cfg.Fault == nil {
		cfg.Fault = func() error { return nil }
	}
	content, err := cfg.Disk.open()
	if err != nil {
		return nil, err
	}
	own := mesh.Node{
		ID: content.ID, Name: cfg.Name, Addr: cfg.Gossip.Addr(), GossipPort: cfg.Gossip.Port(), VXLANPort: planeVXLAN, MTU: planeMTU,
	}
	if err := own.Validate(); err != nil {
		return nil, err
	}
	c := newCluster(clusterConfig{
		Store: &mediumDisk{cfg.Disk, cfg.Fault}, Own: own, Gossip: cfg.Gossip, Network: cfg.Network, Key: content.Key, Now: cfg.Now, Log: cfg.Log,
	}, content)
	if err := c.resume(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Plane{cluster: c, cancel: cancel, ended: make(chan struct{})}
	go p.run(ctx)
	return p, nil
}

// run is the loop's rounds without a kernel, and beside it what follows the cluster's keys.
func (p *Plane) run(ctx context.Context) {
	defer close(p.ended)
	var keys sync.WaitGroup
	defer keys.Wait()
	keys.Go(func() { _ = (&rotations{cluster: p.cluster}).run(ctx) }) // it ends with ctx, without an error
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.cluster.changed:
		case <-retry.C:
		}
		_, _, err := p.cluster.settle()
		if err = errors.Join(err, p.cluster.flush()); err != nil {
			p.cluster.log.Error("a round was not complete", "err", err)
			retry.Reset(retryAfter)
		}
		select {
		case <-ctx.Done():
		case <-time.After(settlePause(0)):
		}
	}
}

// ID is the node's own.
func (p *Plane) ID() mesh.NodeID { return p.cluster.own.ID }

// Init makes the node the first of a new cluster and returns its token.
func (p *Plane) Init(ctx context.Context) (token string, err error) {
	made, err := p.cluster.init(ctx, mesh.DefaultPool(), mesh.DefaultIngress())
	return made.Text(), err
}

// Token makes a token for another node.
func (p *Plane) Token() (string, error) {
	made, err := p.cluster.makeToken(trust.RoleNode, tokenUsual)
	return made.Text(), err
}

// Join makes the node a member of the cluster that the node at seed is in.
func (p *Plane) Join(ctx context.Context, seed netip.AddrPort, token string) error {
	parsed, err := trust.ParseJoinToken(token)
	if err != nil {
		return err
	}
	return p.cluster.join(ctx, seed, parsed)
}

// Outcast tells whether the others take this node for none of theirs, and where one of them is: it
// joined on one side of a split, and the other side made new keys meanwhile. It has to leave and
// join again there.
func (p *Plane) Outcast() (by netip.AddrPort, out bool) {
	if len(p.cluster.outcastProblem()) == 0 {
		return by, false
	}
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	if p.cluster.outcast == nil { // it has left just now
		return by, false
	}
	return p.cluster.outcast.by, true
}

// Leave ends the node's membership.
func (p *Plane) Leave(ctx context.Context) error {
	_, _, err := p.cluster.leaveCluster(ctx)
	return err
}

// Snapshot is the newest view of the state.
func (p *Plane) Snapshot() *mesh.Snapshot { return p.cluster.snapshot() }

// Records are all that the node has, tombstones included, in a fixed order.
func (p *Plane) Records() []mesh.Record {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	return p.cluster.state.Records()
}

// Has tells whether the node has a record of the key.
func (p *Plane) Has(k mesh.Key) bool {
	p.cluster.mu.Lock()
	defer p.cluster.mu.Unlock()
	_, ok := p.cluster.state.Get(k)
	return ok
}

// Alive are the nodes that gossip finds alive, this one included, sorted; nil outside a cluster.
func (p *Plane) Alive() []mesh.NodeID {
	p.cluster.mu.Lock()
	g := p.cluster.members
	p.cluster.mu.Unlock()
	if g == nil {
		return nil
	}
	return g.Members()
}

// Close ends the node as a stop of its agent does: the others are told.
func (p *Plane) Close() error {
	p.cancel()
	<-p.ended
	return errors.Join(p.cluster.close(), p.cluster.store.close())
}

// Crash ends it as kill -9 does: nobody is told, and what is not on the disk is lost.
func (p *Plane) Crash() error {
	p.cancel()
	<-p.ended
	p.cluster.mu.Lock()
	g := p.cluster.members
	p.cluster.members = nil
	p.cluster.mu.Unlock()
	var err error
	if g != nil {
		err = g.Close()
	}
	return errors.Join(err, p.cluster.store.close())
}
