package agent

import (
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// cluster owns the records: the one door by which writes of this node and those
// of others enter the state, reach the disk and the peers, and wake the loop. It
// implements gossip.State. Safe for concurrent use.
type cluster struct {
	store   disk
	own     mesh.Node // what the configuration says about this node
	gossip  netip.AddrPort
	now     func() time.Time
	log     *slog.Logger
	events  *events        // nil where nobody asks for them
	changed chan struct{}  // holds one token while there is something new
	heard   chan struct{}  // holds one token while gossip has found a node alive or silent
	over    chan mesh.Over // other nodes' word on flows, waiting to be acted on
	started time.Time
	network gossip.Network // nil: the host's

	mu      sync.Mutex
	state   mesh.State
	phase   phase
	parting bool                        // leave is under way
	nothing *mesh.Snapshot              // what counts outside a cluster
	secret  *trust.Secret               // nil outside a cluster
	members *gossip.Gossip              // nil outside a cluster
	snap    *mesh.Snapshot              // of state; nil after a change
	dirty   map[mesh.Key]bool           // merged, not yet on disk
	left    map[mesh.Key]error          // on disk, of no use, and why
	seen    map[mesh.NodeID]observation // how gossip sees the others
}

// phase says whether the state is that of a cluster.
type phase int

const (
	outside  phase = iota
	entering       // init or join is under way: records come in and do not count yet
	inside
)

// observation is how gossip sees a node, and since when.
type observation struct {
	alive bool
	since time.Time
}

// clusterConfig is what a cluster is made from.
type clusterConfig struct {
	Store  disk
	Own    mesh.Node
	Gossip netip.AddrPort
	Now    func() time.Time
	Events *events // may be nil
	Log    *slog.Logger

	Network gossip.Network // nil: the host's
}

// newCluster takes up what the store held. Nothing is sent before resume.
func newCluster(cfg clusterConfig, content *saved) *cluster {
	c := &cluster{
		store: cfg.Store, own: cfg.Own, gossip: cfg.Gossip, now: cfg.Now, events: cfg.Events, log: cfg.Log,
		changed: make(chan struct{}, 1), heard: make(chan struct{}, 1), over: make(chan mesh.Over, oversWaiting), started: cfg.Now(),
		network: cfg.Network, nothing: (&mesh.State{}).Snapshot(), dirty: map[mesh.Key]bool{}, left: map[mesh.Key]error{}, seen: map[mesh.NodeID]observation{},
	}
	if content.Secret == nil {
		return c
	}
	c.phase, c.secret = inside, content.Secret
	for k, err := range content.Left {
		c.leave(k, err)
	}
	c.take(content.Records)
	return c
}

// take merges stored records. Of those from the far future this node's own count from now;
// the others are left out.
func (c *cluster) take(records []mesh.Record) {
	var late []mesh.Record
	limit := c.horizon()
	for _, r := range records {
		switch err := r.WrittenBy(limit); {
		case err == nil:
			c.state.Merge(r)
		case r.Version.Writer == c.own.ID:
			late = append(late, r)
		default:
			c.leave(r.Key(), err)
		}
	}
	now := c.tick()
	for _, r := range late {
		c.log.Warn("a stored record of this node was of the future", "kind", r.Kind, "id", r.ID)
		c.state.Merge(r.WrittenAt(now))
		c.dirty[r.Key()] = true
	}
}

// wake makes the loop look.
func (c *cluster) wake() { signal(c.changed) }

func signal(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default: // whoever waits for it will look anyway
	}
}

// snapshot is the newest view; empty outside a cluster.
func (c *cluster) snapshot() *mesh.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshotLocked()
}

func (c *cluster) snapshotLocked() *mesh.Snapshot {
	if c.phase != inside {
		return c.nothing
	}
	if c.snap == nil {
		c.snap = c.state.Snapshot()
	}
	return c.snap
}

func noCluster() error {
	return mesh.Refuse(NoCluster, "run sluice init or sluice join first", "this node is in no cluster")
}

// update lets decide look at the newest snapshot and writes the records that it
// returns, as one step: what decide saw is still so when they are written. The
// writes are on disk before update returns the revision that holds them. decide
// must not block.
func (c *cluster) update(decide func(*mesh.Snapshot) ([]mesh.Record, error)) (uint64, error) {
	rev, records, err := c.write(decide)
	if err != nil || len(records) == 0 {
		return rev, err
	}
	c.wake()
	c.send(records)
	return rev, nil
}

func (c *cluster) write(decide func(*mesh.Snapshot) ([]mesh.Record, error)) (uint64, []mesh.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != inside {
		return 0, nil, noCluster()
	}
	records, err := decide(c.snapshotLocked())
	if err != nil {
		return 0, nil, err
	}
	if records, err = c.stamp(records); err != nil {
		return 0, nil, err
	}
	if len(records) > 0 {
		// What decide saw goes with what it decided: an endpoint on the disk without
		// its service would be taken for one whose service was removed.
		if err := c.store.putRecords(append(c.unsaved(), records...)); err != nil {
			return 0, nil, err
		}
		clear(c.dirty)
		c.mergeLocked(records)
	}
	return c.snapshotLocked().Rev, records, nil
}

// stamp gives records this node's next version, and the claim of their first
// write, and validates them.
func (c *cluster) stamp(records []mesh.Record) ([]mesh.Record, error) {
	now := c.tick()
	stamped := make([]mesh.Record, len(records))
	for i, r := range records {
		r.Version = mesh.Version{Time: now, Writer: c.own.ID}
		r.Claim = now
		if have, ok := c.state.Get(r.Key()); ok {
			r.Claim = have.Claim
		}
		if err := r.Validate(); err != nil {
			return nil, err
		}
		stamped[i] = r
	}
	return stamped, nil
}

// tick is the time of the next write.
func (c *cluster) tick() uint64 {
	return mesh.Tick(c.state.Seen(), uint64(max(c.now().UnixMicro(), 1)))
}

// aheadLimit is how far another node's clock may be ahead, and clockSet a time before which
// this node's own was not set since it started.
const (
	aheadLimit = 24 * time.Hour
	clockSet   = 1_735_689_600 // 2025-01-01, in seconds
)

// horizon is the latest time of a write that this node believes.
func (c *cluster) horizon() uint64 {
	now := c.now()
	if now.Unix() < clockSet {
		return math.MaxUint64
	}
	return uint64(now.Add(aheadLimit).UnixMicro())
}

// mergeLocked returns those that changed the state, as it now holds them.
func (c *cluster) mergeLocked(records []mesh.Record) []mesh.Record {
	var fresh []mesh.Record
	for _, r := range records {
		was, _ := c.state.Get(r.Key())
		if c.state.Merge(r) {
			delete(c.left, r.Key())
			r, _ = c.state.Get(r.Key()) // maybe with another claim
			c.merged(was, r)
			fresh = append(fresh, r)
			c.snap = nil
		}
	}
	return fresh
}

func (c *cluster) send(records []mesh.Record) {
	c.mu.Lock()
	g := c.members
	c.mu.Unlock()
	if g != nil {
		g.Send(records...)
	}
}

// settleRounds bounds how often a node's own claims are looked at again: each
// round can only follow from one that wrote.
const settleRounds = 4

// settle writes what this node must write so that its claims stand, and returns
// the settled snapshot with what there was no room for.
func (c *cluster) settle() (*mesh.Snapshot, map[mesh.EndpointID]error, error) {
	var refused map[mesh.EndpointID]error
	for range settleRounds {
		wrote := false
		_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
			var records []mesh.Record
			records, refused = mesh.Settle(snap, c.own.ID, c.tick())
			records = slices.DeleteFunc(records, c.premature)
			wrote = len(records) > 0
			return records, nil
		})
		if mesh.ReasonOf(err) == NoCluster {
			break
		}
		if err != nil {
			return c.snapshot(), refused, err
		}
		if !wrote {
			break
		}
	}
	return c.snapshot(), refused, nil
}

// flush brings what others wrote to the disk. Losing it costs nothing but the
// time to hear it again, so it is done once a round and not for each record.
func (c *cluster) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != inside || len(c.dirty) == 0 {
		return nil
	}
	if err := c.store.putRecords(c.unsaved()); err != nil {
		return err
	}
	clear(c.dirty)
	return nil
}

// unsaved are the newest versions of the records that are not on the disk.
func (c *cluster) unsaved() []mesh.Record {
	records := make([]mesh.Record, 0, len(c.dirty))
	for k := range c.dirty {
		if r, ok := c.state.Get(k); ok {
			records = append(records, r)
		}
	}
	return records
}

// tombstone is the record that deletes r.
func tombstone(r mesh.Record) mesh.Record {
	return mesh.Record{Kind: r.Kind, ID: r.ID, Deleted: true}
}

// liveness tells how gossip sees a node: itself always alive, one it never met
// silent since the agent started.
func (c *cluster) liveness(id mesh.NodeID) observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, ok := c.seen[id]
	if !ok {
		seen = observation{since: c.started}
	}
	seen.alive = seen.alive || id == c.own.ID
	return seen
}
