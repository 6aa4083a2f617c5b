package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// A node that is removed knows the CA's key and that of gossip. So the others go on with new
// ones, a generation that is sealed to each of them:
//
//	node rm -> removal, rotation (records, by the old keys) -> rotationPause -> each takes up the new keys
//	                     who was away: refused by the others -> the return exchange (comeback.go)
//
// All is driven by the records: whoever made a rotation takes it up as everybody does, and where
// a removal comes in that the newest generation does not know of, another is made.

const (
	rotationLook  = 500 * time.Millisecond
	rotationPause = time.Second      // for the record to reach the others while the old keys hold
	rotationRank  = 10 * time.Second // the second living node in the order of IDs waits so long for the first to rotate, and so on
)

// NodeRemoved is the reason of who was put out.
const NodeRemoved mesh.Reason = "NodeRemoved"

// removeNode puts a node out of the cluster, by its name or ID, and returns its name. One that left
// is put out too: it has the keys of now.
func (c *cluster) removeNode(name string) (string, error) {
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := nodeNamed(snap, name)
		if mesh.ReasonOf(err) == mesh.NotFound {
			n, err = c.departedNamed(snap, name)
		}
		if err != nil {
			return nil, err
		}
		if n.ID == c.own.ID {
			return nil, mesh.Refuse(mesh.BadValue, "run 'sluice leave' on it, or remove it on another node", "%q is this node itself", n.Name)
		}
		name = n.Name
		records := []mesh.Record{tombstone(mesh.NodeRecord(n)), mesh.RemovalRecord(&mesh.Removal{Node: n.ID, Name: n.Name})}
		for _, e := range snap.Local(n.ID) {
			records = append(records, tombstone(mesh.EndpointRecord(e)))
		}
		rotation, err := c.nextLocked(snap, n.ID)
		return append(records, rotation), err
	})
	return name, err
}

// nodeNamed is the node of an ID, or else the one that has the name.
func nodeNamed(snap *mesh.Snapshot, name string) (*mesh.Node, error) {
	if n := snap.Node(mesh.NodeID(name)); n != nil {
		return n, nil
	}
	var found *mesh.Node
	for _, n := range snap.Nodes {
		if n.Name != name {
			continue
		}
		if found != nil {
			return nil, mesh.Refuse(mesh.NameTaken, "give the ID that sluice node ls shows", "several nodes are named %q", name)
		}
		found = n
	}
	if found == nil {
		return nil, mesh.Refuse(mesh.NotFound, "look at sluice node ls", "no node is named %.60q", name)
	}
	return found, nil
}

// nextLocked makes the generation after the present one, for the nodes of the present one but
// those that were removed, out included. The lock is held.
func (c *cluster) nextLocked(snap *mesh.Snapshot, out ...mesh.NodeID) (mesh.Record, error) {
	for _, gone := range snap.Removals {
		out = append(out, gone.Node)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	authority, present := c.member.bundle.Authority, c.member.present(c.steps.of(snap))
	remaining := []trust.PublicKey{c.key.Public()}
	for _, n := range snap.Nodes {
		// Not whoever has a record: one that the removed node let in a moment ago would get the keys.
		if n.ID != c.own.ID && !slices.Contains(out, n.ID) && c.keepsKeys(c.member, present, n.ID) {
			if key, ok := c.keyLocked(n.ID); ok {
				remaining = append(remaining, key)
			}
		}
	}
	_, data, err := c.member.bundle.Rotate(c.key, remaining, c.now())
	if err != nil {
		return mesh.Record{}, fmt.Errorf("make the next keys: %w", err)
	}
	return mesh.RotationRecord(mesh.NewRotation(c.own.ID, authority.Certificate(), data, out)), nil
}

// rotations follows the generations of the CA. It is for one goroutine.
type rotations struct {
	cluster *cluster
	since   time.Time // since when a newer generation is known; zero: none is
	bare    time.Time // since when a removal is known that nobody made a rotation for; zero: none is

	damaged map[string]bool // rotations by ID that are for this node, and cannot be opened
}

// run ends with ctx.
func (r *rotations) run(ctx context.Context) error {
	var returning sync.WaitGroup // a peer that does not answer holds up nothing else
	returning.Go(func() { r.cluster.comeBacks(ctx) })
	returning.Go(func() { r.cluster.rekeys(ctx) })
	defer returning.Wait()
	look := time.NewTicker(rotationLook)
	defer look.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		err := r.follow(ctx)
		if err == nil {
			told = ""
		} else if text := err.Error(); text != told && ctx.Err() == nil {
			told = text
			r.cluster.log.Error("the cluster's keys were not followed", "err", err)
		}
	}
}

// follow takes up a newer generation, or makes one where it is this node's turn.
func (r *rotations) follow(ctx context.Context) error {
	c := r.cluster
	m, snap := c.membership()
	if m == nil {
		return nil
	}
	if snap.Removed(c.own.ID) {
		return c.putOut()
	}
	all := c.steps.of(snap)
	next := slices.DeleteFunc(c.newer(m, snap, all), func(s *step) bool { return r.damaged[s.id] })
	if len(next) == 0 {
		r.since = time.Time{}
		return errors.Join(r.cover(snap, m, all), c.refresh(snap, m), c.regossip(ctx))
	}
	if r.since.IsZero() {
		r.since = c.now()
	}
	if c.now().Sub(r.since) < rotationPause {
		return nil
	}
	best := next[0]
	i := slices.IndexFunc(snap.Rotations, func(rotation *mesh.Rotation) bool { return rotation.ID == best.id })
	bundle, err := best.from.OpenRotation(snap.Rotations[i].Data, c.key)
	if err != nil {
		if r.damaged == nil {
			r.damaged = map[string]bool{}
		}
		r.damaged[best.id] = true // the next best is looked at in the next turn
		return fmt.Errorf("open the cluster's new keys: %w", err)
	}
	r.since = time.Time{}
	return c.adopt(ctx, m, trust.Returned{Bundle: bundle, From: best.from, Successions: [][]byte{best.Succession}})
}

// newer are the steps to generations after the present one that are for this node too, by nodes
// whose word counts, the greatest generation first.
func (c *cluster) newer(m *membership, snap *mesh.Snapshot, all []*step) []*step {
	counts := c.makers(m, snap)
	known := map[trust.Pin]bool{}
	for _, a := range m.generations(m.ways(all), counts) {
		known[a.Pin()] = true
	}
	var newer []*step
	for _, s := range all {
		if known[s.from.Pin()] && s.Authority.Compare(m.bundle.Authority) > 0 && s.sealedTo(c.own.ID) && counts(s.Maker) {
			newer = append(newer, s)
		}
	}
	slices.SortFunc(newer, func(a, b *step) int {
		return cmp.Or(b.Authority.Compare(a.Authority), strings.Compare(a.id, b.id))
	})
	return newer
}

// cover makes a rotation where a removal has none: after two halves of a cluster have met
// again, that removed different nodes.
func (r *rotations) cover(snap *mesh.Snapshot, m *membership, all []*step) error {
	c := r.cluster
	if !snap.Uncovered(m.rotation(snap, all)) {
		r.bare = time.Time{}
		return nil
	}
	if r.bare.IsZero() {
		r.bare = c.now()
	}
	if snap.Node(c.own.ID) == nil || c.now().Sub(r.bare) < rotationPause+c.rankWait(snap) {
		return nil
	}
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		rotation, err := c.nextLocked(snap)
		return []mesh.Record{rotation}, err
	})
	return err
}

// rankWait is how long this node leaves to those before it what one node is to do.
func (c *cluster) rankWait(snap *mesh.Snapshot) time.Duration {
	rank := 0
	for _, n := range snap.Nodes { // sorted by ID
		if n.ID < c.own.ID && c.liveness(n.ID).alive {
			rank++
		}
	}
	return time.Duration(rank) * rotationRank
}

// rotation is the record by which the present generation came; nil for the first.
func (m *membership) rotation(snap *mesh.Snapshot, all []*step) *mesh.Rotation {
	present := m.present(all)
	if present == nil || present.id == "" {
		return nil
	}
	i := slices.IndexFunc(snap.Rotations, func(r *mesh.Rotation) bool { return r.ID == present.id })
	return snap.Rotations[i]
}

// covered returns once this node goes on with keys that no removed node has, or ctx ends.
func (c *cluster) covered(ctx context.Context) error {
	for {
		m, snap := c.membership()
		if m == nil || !snap.Uncovered(m.rotation(snap, c.steps.of(snap))) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rotationLook / 5):
		}
	}
}

// membership is what this node is a member by, nil outside a cluster, and the newest view.
func (c *cluster) membership() (*membership, *mesh.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != inside {
		return nil, c.nothing
	}
	return c.member, c.snapshotLocked()
}

// adopt goes on with another generation: a certificate by it, gossip by its key. On the
// disk it is before it is used.
func (c *cluster) adopt(ctx context.Context, m *membership, to trust.Returned) error {
	bundle := to.Bundle
	trail, err := m.trail.Extend(to.From, to.Successions...)
	if err != nil {
		return fmt.Errorf("note how the new keys came to be: %w", err)
	}
	next := &membership{bundle: bundle, lineage: append(slices.Clone(m.lineage), m.bundle.Authority.Public()), trail: trail}
	creds, err := c.credentials(next)
	if err != nil {
		return err
	}
	next.cert = creds.Certificate()
	err = c.hush(func() error {
		if c.member != m || c.phase != inside || c.parting {
			return errStays // it left, or has other keys by now
		}
		if err := c.store.putMembership(next, nil); err != nil {
			return err
		}
		c.member, c.creds, c.outcast = next, creds, nil
		return nil
	}, nil)
	if errors.Is(err, errStays) {
		return nil
	}
	if err != nil {
		return err
	}
	c.log.Info("the cluster has new keys", "generation", bundle.Authority.Generation())
	_, err = c.update(c.refreshOwn)
	return errors.Join(err, c.regossip(ctx))
}

// putOut ends the membership of this node, which another one removed.
func (c *cluster) putOut() error {
	c.log.Warn("this node was removed from the cluster")
	return c.hush(c.forgetLocked, nil)
}
