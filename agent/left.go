package agent

import (
	"maps"

	"github.com/sluice-mesh/sluice/mesh"
)

// A record on the disk that this agent cannot use stays there and out of the state, until a
// peer sends one that it can.

// leave notes such a record.
func (c *cluster) leave(k mesh.Key, err error) {
	c.left[k] = err
	c.log.Warn("left out a stored record", "kind", k.Kind, "id", k.ID, "err", err)
}

// leftOut is what is left out now, and why.
func (c *cluster) leftOut() map[mesh.Key]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.left)
}

// premature tells whether r would delete an endpoint because its service is gone, while that
// is only left out here.
func (c *cluster) premature(r mesh.Record) bool {
	have, ok := c.state.Get(r.Key())
	if !r.Deleted || !ok || have.Endpoint == nil {
		return false
	}
	_, left := c.left[mesh.Key{Kind: mesh.KindService, ID: string(have.Endpoint.Service)}]
	return left
}
