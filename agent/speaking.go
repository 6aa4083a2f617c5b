package agent

import (
	"context"
	"errors"

	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// Gossip ends and begins anew where the node's address, or the cluster's keys, are others, and
// ends where the node leaves. One such change is made at a time: swapping is taken before mu.

// errStays is what a change says that is none.
var errStays = errors.New("nothing is to be changed")

// hush ends gossip: change is made with the lock held, and where it gives an error, nothing
// is. last, where it is not nil, is the last thing that gossip is asked for. Everybody counts
// as not heard afterwards: the next gossip knows nothing of those whom this one heard.
func (c *cluster) hush(change func() error, last func(*gossip.Gossip) error) error {
	c.swapping.Lock()
	defer c.swapping.Unlock()
	c.mu.Lock()
	if err := change(); err != nil {
		c.mu.Unlock()
		return err
	}
	old := c.members
	c.members = nil
	for id, o := range c.seen {
		if o.alive {
			c.seen[id] = observation{since: c.now()}
		}
	}
	signal(c.heard)
	c.mu.Unlock()
	if old == nil {
		return nil
	}
	var err error
	if last != nil {
		err = last(old)
	}
	if err = errors.Join(err, old.Close()); err != nil {
		c.log.Info("gossip did not end well", "err", err)
	}
	return nil
}

// regossip begins to gossip where the node is in a cluster and does not, and looks for the
// others at once: they do not know where it is now, or by which keys.
func (c *cluster) regossip(ctx context.Context) error {
	g, err := c.speak()
	if g == nil || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, remeet)
	defer cancel()
	if met, err := g.Join(ctx, c.Peers()...); err != nil {
		c.log.Info("not all nodes were met at once", "met", met, "err", err)
	}
	return nil
}

// speak begins to gossip where it is to be; nil where it is not, or is already.
func (c *cluster) speak() (*gossip.Gossip, error) {
	c.swapping.Lock()
	defer c.swapping.Unlock()
	c.mu.Lock()
	m := c.member
	needed := c.phase == inside && c.members == nil && !c.parting
	c.mu.Unlock()
	if !needed {
		return nil, nil
	}
	g, err := c.startGossip(m)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	stays := c.phase == inside && c.member == m && c.members == nil && !c.parting
	if stays {
		c.members = g
	}
	c.mu.Unlock()
	if !stays {
		return nil, g.Close()
	}
	return g, nil
}
