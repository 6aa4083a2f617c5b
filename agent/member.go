package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

const (
	joinTimeout  = 10 * time.Second
	leaveTimeout = time.Second
)

// init makes this node the first of a new cluster and returns a token for others. Where it is
// the only node of such a cluster already, it only makes another token: the first answer may
// have been lost.
func (c *cluster) init(ctx context.Context, pool, subnet netip.Prefix) (trust.JoinToken, error) {
	if c.alone(pool, subnet) {
		return c.makeToken(trust.RoleNode, tokenUsual)
	}
	ingress := mesh.NewIngress(subnet, pool, rand.Uint64())
	if err := ingress.Validate(); err != nil {
		return trust.JoinToken{}, err
	}
	own := c.self()
	if err := own.Outside(ingress.Subnet4, ingress.Subnet6, ingress.Pool); err != nil {
		return trust.JoinToken{}, err
	}
	m, err := c.newMember()
	if err != nil {
		return trust.JoinToken{}, err
	}
	token, record, err := newToken(m.bundle.Authority, trust.RoleNode, c.now().Add(tokenUsual))
	if err != nil {
		return trust.JoinToken{}, err
	}
	return token, c.enter(func() (*membership, error) { return m, nil }, func(*gossip.Gossip) ([]mesh.Record, error) {
		return []mesh.Record{mesh.NetworkRecord(ingress), record}, ctx.Err()
	})
}

// alone tells whether this node is the only one of a cluster of these ranges.
func (c *cluster) alone(pool, subnet netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	snap := c.snapshotLocked()
	n := snap.Network(mesh.IngressNetwork)
	return n != nil && n.Pool == pool && n.Subnet4 == subnet && len(snap.Nodes) == 1 && snap.Node(c.own.ID) != nil
}

// join makes this node a member of the cluster that the node at seed is in.
func (c *cluster) join(ctx context.Context, seed netip.AddrPort, token trust.JoinToken) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	err := c.enter(func() (*membership, error) { return c.admitted(ctx, seed, token) }, func(g *gossip.Gossip) ([]mesh.Record, error) {
		// The seed's records are in the state when Join returns.
		_, err := g.Join(ctx, seed)
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, mesh.Refuse(gossip.Unreachable, "check the address and the firewalls, then try again", "the node at %s did not answer in time", seed)
		}
		if err != nil {
			return nil, fmt.Errorf("meet %s: %w", seed, err)
		}
		return nil, c.fits(seed)
	})
	if err != nil {
		return err
	}
	return c.introduce(ctx, seed)
}

// introduce sees to it that the node by which this one came has its record. Where the cluster's
// keys became others in between, nobody would take this node for one of theirs.
func (c *cluster) introduce(ctx context.Context, seed netip.AddrPort) error {
	c.mu.Lock()
	g := c.members
	c.mu.Unlock()
	if g == nil {
		return nil // it moves just now, and meets all others then
	}
	_, err := g.Join(ctx, seed)
	if err == nil {
		return nil
	}
	err = mesh.Refuse(JoinFailed, "try again; with a new token, if a node was removed meanwhile", "the node at %s let this one in and did not take its record: %v", seed, err)
	_, _, left := c.leaveCluster(context.WithoutCancel(ctx))
	return errors.Join(err, left)
}

// fits refuses a cluster that cannot be seen from seed, or that has a network around
// this node's own address.
func (c *cluster) fits(seed netip.AddrPort) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	snap := c.state.Snapshot()
	if snap.Network(mesh.IngressNetwork) == nil {
		return mesh.Refuse(JoinFailed, "look at sluice status there and at the agent's log here, or join by another node", "the node at %s sent no ingress network", seed)
	}
	for _, n := range snap.Networks {
		if err := c.own.Outside(n.Subnets()...); err != nil {
			return err
		}
	}
	return nil
}

// enter makes the node a member, or leaves everything as it was: nothing is on
// disk and nothing counts before meet has succeeded.
func (c *cluster) enter(admit func() (*membership, error), meet func(*gossip.Gossip) ([]mesh.Record, error)) error {
	if err := c.begin(); err != nil {
		return err
	}
	m, err := admit()
	if err != nil {
		c.abandon()
		return err
	}
	g, err := c.startGossip(m)
	if err != nil {
		c.abandon()
		return err
	}
	records, err := meet(g)
	if err == nil {
		records, err = c.commit(m, g, records)
	}
	if err != nil {
		err = errors.Join(err, g.Close())
		c.abandon()
		return err
	}
	c.wake()
	g.Send(records...)
	return nil
}

func (c *cluster) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case inside:
		return mesh.Refuse(InCluster, "run 'sluice leave' first", "this node is in a cluster")
	case entering:
		return mesh.Refuse(InCluster, "wait until it has ended", "another init or join is under way")
	default:
		c.phase = entering
		return nil
	}
}

// abandon forgets what came in meanwhile. Gossip is closed by then.
func (c *cluster) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.phase, c.snap, c.creds, c.contacts = outside, nil, nil, mesh.Contacts{}
	c.state.Clear()
	c.expelled.clear()
	clear(c.dirty)
	clear(c.seen)
}

func (c *cluster) commit(m *membership, g *gossip.Gossip, records []mesh.Record) ([]mesh.Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Endpoints of a former life of this node, which could not say that they end.
	for _, e := range c.state.Snapshot().Local(c.own.ID) {
		records = append(records, tombstone(mesh.EndpointRecord(e)))
	}
	records, err := c.stamp(append(records, mesh.NodeRecord(c.ownNode())))
	if err != nil {
		return nil, err
	}
	if err := c.store.putMembership(m, append(c.state.Records(), records...)); err != nil {
		return nil, err
	}
	c.mergeLocked(records)
	clear(c.dirty)
	c.phase, c.members, c.member = inside, g, m
	c.events.add(NodeJoined, "node "+c.own.Name, "this node entered the cluster")
	return records, nil
}

// ownNode is this node's record as the configuration wants it, with the claims
// that it has.
func (c *cluster) ownNode() *mesh.Node {
	own := c.own
	if have, ok := c.state.Get(mesh.NodeRecord(&own).Key()); ok && have.Node != nil {
		own.Slot, own.SlotClaim, own.Blocks, own.Held = have.Node.Slot, have.Node.SlotClaim, have.Node.Blocks, have.Node.Held
		own.Synced, own.Routes = have.Node.Synced, have.Node.Routes
	}
	if c.creds != nil {
		own.Cert = c.creds.Certificate()
	}
	return &own
}

// believe takes up what m says: who this node is, and whom it believes. Credentials of the
// same CA stay: they may have a newer certificate than m.
func (c *cluster) believe(m *membership) (*trust.Credentials, error) {
	c.mu.Lock()
	have := c.creds
	c.mu.Unlock()
	if have != nil && have.Authority().Pin() == m.bundle.Authority.Pin() {
		return have, nil
	}
	creds, err := c.credentials(m)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.creds = creds
	return creds, nil
}

// startGossip begins to speak as a member.
func (c *cluster) startGossip(m *membership) (*gossip.Gossip, error) {
	creds, err := c.believe(m)
	if err != nil {
		return nil, err
	}
	keys, err := c.gossipKeysOf(m)
	if err != nil {
		return nil, err
	}
	raw := keyBytes(keys)
	g, err := gossip.Start(gossip.Config{
		ID: c.own.ID, Bind: c.listens(), Key: raw[0], Read: raw[1:], State: c, Log: c.log,
		Network: c.network, Secure: c.protect(m, creds), Verifier: c, Signer: c.signer, Wall: c.now,
	})
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	return g, nil
}

// resume takes up membership after a restart. The node serves what it knew even
// if no peer answers; gossip looks for them by itself.
func (c *cluster) resume() error {
	c.mu.Lock()
	m := c.member
	c.mu.Unlock()
	if m == nil {
		return nil
	}
	if _, err := c.believe(m); err != nil {
		return err
	}
	if _, err := c.update(c.refreshOwn); err != nil {
		return err
	}
	g, err := c.startGossip(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.members = g
	c.mu.Unlock()
	return nil
}

// refreshOwn writes the node's record where the configuration has changed.
func (c *cluster) refreshOwn(snap *mesh.Snapshot) ([]mesh.Record, error) {
	have, own := snap.Node(c.own.ID), c.ownNode()
	if have != nil && have.Name == own.Name && have.Addr == own.Addr && have.MTU == own.MTU &&
		have.GossipPort == own.GossipPort && have.VXLANPort == own.VXLANPort && bytes.Equal(have.Cert, own.Cert) {
		return nil, nil
	}
	return []mesh.Record{mesh.NodeRecord(own)}, nil
}

// close tells the peers that this node's agent ends, and brings everything to
// the disk. What the kernel holds stays.
func (c *cluster) close() error {
	c.mu.Lock()
	g := c.members
	c.members = nil
	c.mu.Unlock()
	var left, closed error
	if g != nil {
		if left = leave(g); left != nil {
			c.log.Info("left without an answer", "err", left)
		}
		closed = g.Close()
	}
	return errors.Join(closed, c.flush())
}

// leave tells the other nodes that gossip ends here, and waits for no one of them for long.
func leave(g *gossip.Gossip) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return g.Leave(ctx)
}
