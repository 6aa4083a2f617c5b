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
	began := false
	_, err = c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		// What is written now is the last that this node says, until it stays after all.
		began, c.parting = true, true
		return c.ownTombstones(snap)
	})
	if err != nil {
		if began {
			c.stay()
		}
		return 0, nil, err
	}
	untold = c.sayGoodbye(ctx)
	err = c.hush(c.forgetLocked, leave)
	c.stay()
	if err != nil {
		_, again := c.update(c.refreshOwn)
		return 0, untold, errors.Join(err, again)
	}
	return c.snapshot().Rev, untold, nil
}

// stay ends leaving, whether the node has left or not.
func (c *cluster) stay() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parting = false
}

// forgetLocked forgets the cluster, on the disk first. The lock is held.
func (c *cluster) forgetLocked() error {
	if err := c.store.dropMembership(); err != nil {
		return err
	}
	c.phase, c.snap, c.member, c.creds, c.outcast, c.contacts = outside, nil, nil, nil, nil, mesh.Contacts{}
	c.state.Clear()
	c.nothing = c.state.Snapshot()
	c.expelled.clear()
	clear(c.dirty)
	clear(c.left)
	clear(c.seen)
	clear(c.departed)
	c.peersTime = peersTime{}
	c.wake()
	signal(c.heard)
	return nil
}

// sayGoodbye brings the last records to one other node for certain.
func (c *cluster) sayGoodbye(ctx context.Context) (untold error) {
	c.mu.Lock()
	g := c.members
	c.mu.Unlock()
	peers := c.Peers()
	if len(peers) == 0 {
		return nil
	}
	if g == nil { // it moves just now
		return mesh.Refuse(gossip.Unreachable, "remove it there", "this node does not gossip")
	}
	bounded, cancel := context.WithTimeout(ctx, farewellLimit)
	defer cancel()
	_, untold = meetOne(bounded, g.Join, peers)
	return untold
}
