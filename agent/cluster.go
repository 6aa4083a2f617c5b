package agent

import (
	"log/slog"
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
	signer  gossip.Signer // nil: records are not signed
	key     trust.Key     // this node's own: its ID is the hash of it
	now     func() time.Time
	log     *slog.Logger
	events  *events        // nil where nobody asks for them
	changed chan struct{}  // holds one token while there is something new
	heard   chan struct{}  // holds one token while gossip has found a node alive or silent
	over    chan mesh.Over // other nodes' word on flows, waiting to be acted on
	started time.Time
	network gossip.Network

	keyPeriod time.Duration // after which gossip gets another key; 0: by command alone
	rekeyed   chan struct{} // holds one token while a keyring has come in

	certified certified
	steps     steps
	expelled  expelled
	refused   chan netip.AddrPort // who does not believe this node; holds one

	swapping sync.Mutex // held while gossip is ended or begun; taken before mu

	mu        sync.Mutex
	state     mesh.State
	phase     phase
	parting   bool                        // leave is under way
	nothing   *mesh.Snapshot              // what counts outside a cluster
	member    *membership                 // nil outside a cluster
	creds     *trust.Credentials          // of member; nil until gossip begins
	outcast   *outcast                    // who takes this node for none of the cluster; nil: nobody does
	members   *gossip.Gossip              // nil outside a cluster
	vouched   vouched                     // by which CA the nodes' certificates are
	late      late                        // who came in beside a removal
	departed  map[mesh.NodeID]string      // the names of nodes that left
	peersTime peersTime                   // what time the others have
	healed    time.Time                   // when it was looked last for own records of the future
	keyed     gossipKeys                  // of the last membership that gossiped
	snap      *mesh.Snapshot              // of state; nil after a change
	dirty     map[mesh.Key]bool           // merged, not yet on disk
	left      map[mesh.Key]error          // on disk, of no use, and why
	seen      map[mesh.NodeID]observation // how gossip sees the others

	contacts  mesh.Contacts                    // since the agent started
	overtaken map[mesh.NetworkID][]mesh.Subnet // that this node is to add again
	ticked    uint64                           // the time of the write under way; 0: there is none
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
	Key    trust.Key // this node's own; the zero Key: records are not signed, and the node enters no cluster
	Now    func() time.Time
	Events *events // may be nil
	Log    *slog.Logger

	Network     gossip.Network // nil: the host's
	KeyRotation time.Duration  // 0: the keys of gossip are rotated by command alone
}

// newCluster takes up what the store held. Nothing is sent before resume.
func newCluster(cfg clusterConfig, content *saved) *cluster {
	c := &cluster{
		store: cfg.Store, own: cfg.Own, gossip: cfg.Gossip, key: cfg.Key, now: cfg.Now, events: cfg.Events, log: cfg.Log,
		changed: make(chan struct{}, 1), heard: make(chan struct{}, 1), over: make(chan mesh.Over, oversWaiting), started: cfg.Now(),
		keyPeriod: cfg.KeyRotation, rekeyed: make(chan struct{}, 1),
		network: cfg.Network, refused: make(chan netip.AddrPort, 1), nothing: (&mesh.State{}).Snapshot(), dirty: map[mesh.Key]bool{}, vouched: vouched{}, left: map[mesh.Key]error{}, seen: map[mesh.NodeID]observation{},
	}
	if c.network == nil {
		c.network = gossip.Host()
	}
	if cfg.Key.Valid() {
		c.signer = cfg.Key
	}
	if content.Member == nil {
		return c
	}
	c.phase, c.member = inside, content.Member
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
	limit := mesh.LatestBelieved(c.now())
	for _, r := range records {
		switch err := r.WrittenBy(limit); {
		case err == nil:
			c.absorb(r)
		case r.Version.Writer == c.own.ID:
			late = append(late, r)
		default:
			c.leave(r.Key(), err)
		}
	}
	now := c.tick()
	for _, r := range late {
		c.log.Warn("a stored record of this node was of the future", "kind", r.Kind, "id", r.ID)
		again, err := gossip.Seal(r.WrittenAt(now), r, c.signer)
		if err != nil {
			c.leave(r.Key(), err)
			continue
		}
		c.absorb(again)
		c.dirty[r.Key()] = true
	}
	c.noteDropped()
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
	if c.parting {
		return 0, nil, mesh.Refuse(NoCluster, "wait until it has ended", "this node leaves its cluster")
	}
	c.ticked = c.tick()
	defer func() { c.ticked = 0 }()
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
		unsaved, gone := c.unsaved()
		if err := c.store.putRecords(append(unsaved, records...), gone...); err != nil {
			return 0, nil, err
		}
		clear(c.dirty)
		c.mergeLocked(records)
	}
	return c.snapshotLocked().Rev, records, nil
}

// stamp gives records this node's next version, and the claim of their first
// write, validates and seals them.
func (c *cluster) stamp(records []mesh.Record) ([]mesh.Record, error) {
	now := c.tick()
	stamped := make([]mesh.Record, len(records))
	for i, r := range records {
		r.Version = mesh.Version{Time: now, Writer: c.own.ID}
		r.Claim = now
		have, ok := c.state.Get(r.Key())
		if ok {
			r.Claim = have.Claim
		}
		if err := r.Validate(); err != nil {
			return nil, err
		}
		if r.Body != nil {
			have = r // it is written again
		}
		var err error
		if stamped[i], err = gossip.Seal(r, have, c.signer); err != nil {
			return nil, err
		}
	}
	return stamped, nil
}

// tick is the time of the next write. Of one write it is the same from its decision to its version,
// also where the clock is set back in between: no claim is of after its version.
func (c *cluster) tick() uint64 {
	if c.ticked != 0 {
		return c.ticked
	}
	now := c.now()
	return mesh.Tick(c.state.SeenBy(mesh.LatestBelieved(now)), mesh.Micros(now))
}

// absorb is the one way of a record into the state, and tells whether it changed it.
func (c *cluster) absorb(r mesh.Record) bool {
	fresh := c.state.Merge(r)
	if fresh && r.Removal != nil {
		c.expelled.add(r.Removal.Node)
	}
	if fresh && r.Keyring != nil {
		signal(c.rekeyed)
	}
	return fresh
}

// mergeLocked returns those that changed the state.
func (c *cluster) mergeLocked(records []mesh.Record) []mesh.Record {
	var fresh []mesh.Record
	for _, r := range records {
		was, _ := c.state.Get(r.Key())
		if c.absorb(r) {
			delete(c.left, r.Key())
			c.merged(was, r)
			c.noteLate(was, r)
			c.noteOvertaken(was, r)
			fresh = append(fresh, r)
			c.snap = nil
		}
	}
	c.noteDropped()
	return fresh
}

// noteDropped sees to it that the disk forgets the tombstones that the state forgot.
func (c *cluster) noteDropped() {
	for _, k := range c.state.Expire() {
		c.dirty[k] = true
	}
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
			records := c.regrowLocked()
			if wrote = len(records) > 0; wrote {
				return records, nil
			}
			records, refused = mesh.Settle(snap, c.own.ID, c.tick())
			records = c.sayLocked(slices.DeleteFunc(records, c.premature))
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
	unsaved, gone := c.unsaved()
	if err := c.store.putRecords(unsaved, gone...); err != nil {
		return err
	}
	clear(c.dirty)
	return nil
}

// unsaved are the newest versions of the records that are not on the disk, and the keys of
// those that are there and need not be.
func (c *cluster) unsaved() (records []mesh.Record, gone []mesh.Key) {
	for k := range c.dirty {
		if r, ok := c.state.Get(k); ok {
			records = append(records, r)
		} else {
			gone = append(gone, k)
		}
	}
	return records, gone
}

// tombstone is the record that deletes r.
func tombstone(r mesh.Record) mesh.Record { return mesh.Tombstone(r) }

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
