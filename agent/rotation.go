package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// A node that is removed knows the CA's key and that of gossip. So the others go on with new
// ones, a generation that is sealed to each of them:
//
//	node rm -> removal, rotation (records, by the old keys) -> rotationPause -> each takes up the new keys
//	                     who was away: refused by the others -> the return exchange
//
// All is driven by the records: whoever made a rotation takes it up as everybody does, and where
// a removal comes in that the newest generation does not know of, another is made.

const (
	rotationLook  = 500 * time.Millisecond
	rotationPause = time.Second            // for the record to reach the others while the old keys hold
	rotationRank  = 10 * time.Second       // the second node in the order of IDs waits so long for the first to rotate, and so on
	returnPause   = 500 * time.Millisecond // between two tries to come back
	returnAsks    = 4                      // peers of a try: one may be as far behind as this node
)

// NodeRemoved is the reason of who was put out.
const NodeRemoved mesh.Reason = "NodeRemoved"

// removeNode puts a node out of the cluster, by its name or ID, and returns its name.
func (c *cluster) removeNode(name string) (string, error) {
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := nodeNamed(snap, name)
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

// nextLocked makes the generation after the present one, for all nodes that are known but
// those that were removed, out included. The lock is held.
func (c *cluster) nextLocked(snap *mesh.Snapshot, out ...mesh.NodeID) (mesh.Record, error) {
	for _, gone := range snap.Removals {
		out = append(out, gone.Node)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	authority := c.member.bundle.Authority
	remaining := []trust.PublicKey{c.key.Public()}
	for _, n := range snap.Nodes {
		if n.ID == c.own.ID || slices.Contains(out, n.ID) {
			continue
		}
		// One whose certificate has ended, or is of a generation before, comes back by its key.
		if id, err := authority.Identify(n.Cert, c.now()); err == nil && id.Node == n.ID {
			remaining = append(remaining, id.Key)
		}
	}
	next, data, err := c.member.bundle.Rotate(c.key, remaining, c.now())
	if err != nil {
		return mesh.Record{}, fmt.Errorf("make the next keys: %w", err)
	}
	pin := next.Authority.Pin()
	return mesh.RotationRecord(&mesh.Rotation{
		ID: hex.EncodeToString(pin[:])[:mesh.IDLength], From: authority.Certificate(), Data: data, Covers: out,
	}), nil
}

// rotations follows the generations of the CA. It is for one goroutine.
type rotations struct {
	cluster *cluster
	waiting string // the rotation that is taken up next
	since   time.Time
	bare    time.Time // since when a removal is known that nobody made a rotation for; zero: none is
}

// run ends with ctx.
func (r *rotations) run(ctx context.Context) error {
	look := time.NewTicker(rotationLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			if err := r.follow(ctx); err != nil && ctx.Err() == nil {
				r.cluster.log.Error("the cluster's keys were not followed", "err", err)
			}
		case peer := <-r.cluster.refused:
			r.comeBack(ctx, peer)
			rest(ctx, returnPause)
		}
	}
}

// comeBack asks who refused this node, and a few others where that one cannot help.
func (r *rotations) comeBack(ctx context.Context, peer netip.AddrPort) {
	peers := r.cluster.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	peers = append([]netip.AddrPort{peer}, peers[:min(len(peers), returnAsks-1)]...)
	for _, peer := range peers {
		came, err := r.cluster.comeBack(ctx, peer)
		if came || ctx.Err() != nil {
			return
		}
		if err != nil {
			r.cluster.log.Warn("this node is not let back in", "peer", peer, "err", err)
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
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
	if found, bundle := m.newest(snap, c.key); found != nil {
		if r.waiting != found.ID {
			r.waiting, r.since = found.ID, c.now()
		}
		if c.now().Sub(r.since) < rotationPause {
			return nil
		}
		return c.adopt(ctx, m, bundle)
	}
	return r.cover(snap, m)
}

// cover makes a rotation where a removal has none: after two halves of a cluster have met
// again, that removed different nodes.
func (r *rotations) cover(snap *mesh.Snapshot, m *membership) error {
	c := r.cluster
	if !snap.Uncovered(m.rotation(snap)) {
		r.bare = time.Time{}
		return nil
	}
	if r.bare.IsZero() {
		r.bare = c.now()
	}
	rank := slices.IndexFunc(snap.Nodes, func(n *mesh.Node) bool { return n.ID == c.own.ID }) // sorted by ID
	if c.now().Sub(r.bare) < rotationPause+time.Duration(rank)*rotationRank {
		return nil
	}
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		rotation, err := c.nextLocked(snap)
		return []mesh.Record{rotation}, err
	})
	return err
}

// covered returns once this node goes on with keys that no removed node has, or ctx ends.
func (c *cluster) covered(ctx context.Context) error {
	for {
		m, snap := c.membership()
		if m == nil || !snap.Uncovered(m.rotation(snap)) {
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

// generations are the CAs that this node has believed, the oldest first, and those that the
// rotations of the state say to come before or after them.
func (m *membership) generations(snap *mesh.Snapshot) []*trust.Authority {
	known := append(slices.Clone(m.lineage), m.bundle.Authority.Public())
	has := func(a *trust.Authority) bool {
		return slices.ContainsFunc(known, func(b *trust.Authority) bool { return a.Pin() == b.Pin() })
	}
	for found := true; found; {
		found = false
		for _, r := range snap.Rotations {
			from, err := trust.ParseAuthority(r.From)
			if err != nil {
				continue
			}
			to, err := from.ReadRotation(r.Data)
			if err != nil {
				continue
			}
			switch {
			case has(from) && !has(to.Authority):
				known, found = append(known, to.Authority), true
			case has(to.Authority) && !has(from):
				known, found = append(known, from), true
			}
		}
	}
	slices.SortFunc(known, (*trust.Authority).Compare)
	return known
}

// newest is the greatest generation after the present one that is sealed to this node, by a
// node that was not removed; nil where there is none.
func (m *membership) newest(snap *mesh.Snapshot, key trust.Key) (*mesh.Rotation, trust.Bundle) {
	var found *mesh.Rotation
	best := m.bundle
	known := m.generations(snap)
	for _, r := range snap.Rotations {
		for _, a := range known {
			read, err := a.ReadRotation(r.Data)
			if err != nil || read.Authority.Compare(best.Authority) <= 0 || snap.Removed(read.Maker) {
				continue
			}
			if b, err := a.OpenRotation(r.Data, key); err == nil {
				found, best = r, b
			}
		}
	}
	return found, best
}

// rotation is the record by which the present generation came; nil for the first.
func (m *membership) rotation(snap *mesh.Snapshot) *mesh.Rotation {
	pin := m.bundle.Authority.Pin()
	for _, r := range snap.Rotations {
		if r.ID == hex.EncodeToString(pin[:])[:mesh.IDLength] {
			return r
		}
	}
	return nil
}

// adopt goes on with another generation: a certificate by it, gossip by its key. On the
// disk it is before it is used.
func (c *cluster) adopt(ctx context.Context, m *membership, bundle trust.Bundle) error {
	next := &membership{bundle: bundle, lineage: append(slices.Clone(m.lineage), m.bundle.Authority.Public())}
	creds, err := c.credentials(next)
	if err != nil {
		return err
	}
	next.cert = creds.Certificate()
	c.mu.Lock()
	if c.member != m || c.phase != inside {
		c.mu.Unlock()
		return nil // it left meanwhile
	}
	if err := c.store.putMembership(next, nil); err != nil {
		c.mu.Unlock()
		return err
	}
	old := c.members
	c.member, c.creds, c.members = next, creds, nil
	c.mu.Unlock()
	c.log.Info("the cluster has new keys", "generation", bundle.Authority.Generation())
	if old != nil {
		if err := old.Close(); err != nil {
			c.log.Warn("gossip by the old keys did not end well", "err", err)
		}
	}
	_, err = c.update(c.refreshOwn)
	return errors.Join(err, c.regossip(ctx))
}

// putOut ends the membership of this node, which another one removed.
func (c *cluster) putOut() error {
	c.mu.Lock()
	old := c.members
	c.members = nil
	err := c.forgetLocked()
	c.mu.Unlock()
	c.log.Warn("this node was removed from the cluster")
	if old != nil {
		err = errors.Join(err, old.Close())
	}
	return err
}

// successions lead a node that was away from the CA that it knows to the present one.
func (c *cluster) successions(node mesh.NodeID, from trust.Pin) ([][]byte, error) {
	m, snap := c.membership()
	if m == nil {
		return nil, noCluster()
	}
	if !c.mayReturn(node) {
		return nil, mesh.Refuse(NodeRemoved, "reset it with 'sluice reset' and let it join by a new token", "node %s is none of this cluster", node)
	}
	known := m.generations(snap)
	var way [][]byte
	for at := from; at != m.bundle.Authority.Pin(); {
		next := follower(known, snap, at, m.bundle.Authority)
		if next == nil || len(way) > len(snap.Rotations) {
			return nil, mesh.Refuse(trust.WrongCluster, "let it join by a new token", "no way is known from the CA that node %s knows", node)
		}
		way = append(way, next.Succession)
		at = next.Authority.Pin()
	}
	return way, nil
}

// mayReturn tells whether a node is one of this cluster: neither removed, nor left by its own
// word, nor never met. A record that another one deleted by mistake its node writes again.
func (c *cluster) mayReturn(node mesh.NodeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, removed := c.state.Get(mesh.Key{Kind: mesh.KindRemoval, ID: string(node)})
	r, known := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(node)})
	return known && !removed && (!r.Deleted || r.Version.Writer != node)
}

// follower is the greatest generation that follows that of a pin and is no greater than last.
func follower(known []*trust.Authority, snap *mesh.Snapshot, at trust.Pin, last *trust.Authority) *trust.Rotated {
	i := slices.IndexFunc(known, func(a *trust.Authority) bool { return a.Pin() == at })
	if i < 0 {
		return nil
	}
	var best *trust.Rotated
	for _, r := range snap.Rotations {
		read, err := known[i].ReadRotation(r.Data)
		if err == nil && read.Authority.Compare(last) <= 0 && (best == nil || read.Authority.Compare(best.Authority) > 0) {
			best = &read
		}
	}
	return best
}

// comeBack asks a node that does not believe this one's certificate for the keys of now, and
// tells whether it got them.
func (c *cluster) comeBack(ctx context.Context, peer netip.AddrPort) (came bool, err error) {
	m, snap := c.membership()
	if m == nil {
		return false, nil
	}
	var fault error
	known := m.generations(snap)
	slices.Reverse(known)
	for _, a := range known {
		bundle, err := c.returned(ctx, peer, a, snap)
		switch {
		case err == nil && bundle.Authority.Compare(m.bundle.Authority) > 0:
			return true, c.adopt(ctx, m, bundle)
		case err == nil:
			return false, nil // it is the other one that is behind
		case mesh.ReasonOf(err) != trust.WrongCluster:
			return false, err
		}
		fault = err
	}
	return false, fault
}

func (c *cluster) returned(ctx context.Context, peer netip.AddrPort, a *trust.Authority, snap *mesh.Snapshot) (trust.Bundle, error) {
	conn, err := c.network.Dial(ctx, peer)
	if err != nil {
		return trust.Bundle{}, err
	}
	defer conn.Close()
	return trust.Return(ctx, conn, trust.Returning{Key: c.key, Authority: a, Now: c.now, Believed: func(maker mesh.NodeID) error {
		if snap.Removed(maker) {
			return mesh.Refuse(NodeRemoved, "ask another node", "the new keys were made by node %s, which was removed", maker)
		}
		return nil
	}})
}

// expelled are the nodes that were removed, for those who may not wait for the cluster's
// lock. Safe for concurrent use.
type expelled struct {
	mu    sync.Mutex
	nodes map[mesh.NodeID]bool
}

func (e *expelled) add(id mesh.NodeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes == nil {
		e.nodes = map[mesh.NodeID]bool{}
	}
	e.nodes[id] = true
}

func (e *expelled) clear() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.nodes)
}

// admit refuses a member that was removed a moment ago.
func (e *expelled) admit(id trust.Identity) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[id.Node] {
		return mesh.Refuse(NodeRemoved, "reset it with 'sluice reset' and let it join by a new token", "node %s was removed", id.Node)
	}
	return nil
}

// watchedConn notices that the other side does not believe this node's certificate: TLS 1.3
// says so only where something is read.
type watchedConn struct {
	net.Conn
	refused func()
}

// Read tells what it notices.
func (w watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil && trust.RefusedByPeer(err) {
		w.refused()
	}
	return n, err
}

// refuses notes that a peer does not believe this node.
func (c *cluster) refuses(peer net.Addr) {
	at, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return
	}
	select {
	case c.refused <- at:
	default: // one is asked already
	}
}

// lineageText is a list of CAs as the store keeps it: each DER certificate by its length.
func lineageText(list []*trust.Authority) []byte {
	var b bytes.Buffer
	for _, a := range list {
		der := a.Certificate()
		b.Write([]byte{byte(len(der) >> 8), byte(len(der))})
		b.Write(der)
	}
	return b.Bytes()
}

func parseLineage(text []byte) ([]*trust.Authority, error) {
	var list []*trust.Authority
	for len(text) > 0 {
		if len(text) < 2 {
			return nil, errors.New("the list of CAs is cut")
		}
		n := int(text[0])<<8 | int(text[1])
		if text = text[2:]; len(text) < n {
			return nil, errors.New("the list of CAs is cut")
		}
		a, err := trust.ParseAuthority(text[:n])
		if err != nil {
			return nil, fmt.Errorf("a CA of before: %w", err)
		}
		list, text = append(list, a), text[n:]
	}
	return list, nil
}
