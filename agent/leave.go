package agent

import (
	"context"
	"errors"

	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// leaveCluster ends this node's membership: the others hear that it and its endpoints are gone,
// then it forgets the cluster, and the loop takes away what was built for it. The
// workloads themselves are not touched. rev is the revision without it.
//
// untold says why no other node took the word, where none did: they then have it as a node that
// is gone, until it is removed there. Where an error is returned the node is still a member.
func (c *cluster) leaveCluster(ctx context.Context) (rev uint64, untold, err error) {
	g, err := c.part()
	if err != nil {
		return 0, nil, err
	}
	defer c.stay()
	if _, err := c.update(c.ownTombstones); err != nil {
		return 0, nil, err
	}
	untold = c.sayGoodbye(ctx, g)
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.forgetLocked()
	return c.nothing.Rev, untold, err
}

// forgetLocked forgets the cluster, on the disk first. The lock is held.
func (c *cluster) forgetLocked() error {
	if err := c.store.dropMembership(); err != nil {
		return err
	}
	c.phase, c.snap, c.member, c.creds, c.contacts = outside, nil, nil, nil, mesh.Contacts{}
	c.state.Clear()
	c.nothing = c.state.Snapshot()
	c.expelled.clear()
	clear(c.dirty)
	clear(c.left)
	clear(c.seen)
	c.wake()
	signal(c.heard)
	return nil
}

// part begins to leave: from here on the node does not write its own record again.
func (c *cluster) part() (*gossip.Gossip, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase != inside:
		return nil, noCluster()
	case c.parting:
		return nil, mesh.Refuse(InCluster, "wait until it has ended", "another leave is under way")
	}
	c.parting = true
	return c.members, nil
}

// stay ends leaving, whether the node has left or not.
func (c *cluster) stay() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parting = false
}

// sayGoodbye brings the last records to one other node for certain, and ends gossip.
func (c *cluster) sayGoodbye(ctx context.Context, g *gossip.Gossip) (untold error) {
	if g == nil { // it moves just now, or an earlier leave got so far
		return mesh.Refuse(gossip.Unreachable, "remove it there", "this node does not gossip")
	}
	if peers := c.Peers(); len(peers) > 0 {
		bounded, cancel := context.WithTimeout(ctx, farewellLimit)
		defer cancel()
		_, untold = meetOne(bounded, g.Join, peers)
	}
	c.mu.Lock()
	c.members = nil
	c.mu.Unlock()
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	if err := errors.Join(g.Leave(short), g.Close()); err != nil {
		c.log.Info("left without an answer", "err", err)
	}
	return untold
}
