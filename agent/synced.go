package agent

import "github.com/sluice-mesh/sluice/mesh"

// Tombstones are dropped by what the nodes' records say of how far each is in sync; see
// mesh.Horizon. These methods keep that up.

// Now is this node's time for its peers.
func (c *cluster) Now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Now(mesh.Micros(c.now()))
}

// Met notes that a node held what this one does. Where that is worth a write, the loop
// does it.
func (c *cluster) Met(id mesh.NodeID, until uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until > mesh.LatestBelieved(c.now()) {
		return // its clock is wrong, and it will not keep to that
	}
	c.noteTime(until)
	c.contacts.Met(id, until)
	if _, due := c.syncedLocked(); due && c.phase == inside {
		c.wake()
	}
}

// syncedLocked is until when this node is in sync, and whether to say so: a cluster that has
// nothing to drop is left in peace.
func (c *cluster) syncedLocked() (until uint64, due bool) {
	until, due = c.contacts.Synced(&c.state, c.own.ID, c.tick())
	return until, due && c.state.Expiring(until)
}

// sayLocked adds to what this node writes until when it is in sync, where that is due.
func (c *cluster) sayLocked(records []mesh.Record) []mesh.Record {
	until, due := c.syncedLocked()
	if !due || c.snapshotLocked().Node(c.own.ID) == nil {
		return records
	}
	for _, r := range records {
		if r.Node != nil && r.Node.ID == c.own.ID {
			r.Node.Synced = until
			return records
		}
	}
	own := c.ownNode()
	own.Synced = until
	return append(records, mesh.NodeRecord(own))
}
