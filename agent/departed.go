package agent

import (
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// A node that left keeps what it knew: the CA's key, on a copy of its disk if nowhere else. Its
// tombstone says who it was, so that it can be removed all the same.

// departedMost is of how many such nodes the names are remembered, for people; the rest have IDs.
const departedMost = 1000

// noteDeparted remembers the name of a node whose tombstone takes the place of was. The lock is held.
func (c *cluster) noteDeparted(was, now mesh.Record) {
	switch {
	case now.Node != nil:
		delete(c.departed, now.Node.ID)
	case now.Deleted && was.Node != nil && len(c.departed) < departedMost:
		if c.departed == nil {
			c.departed = map[mesh.NodeID]string{}
		}
		c.departed[was.Node.ID] = was.Node.Name
	}
}

// departedNamed is a node that left and was not removed yet, by its ID, or by its name where that
// is remembered. The lock is held.
func (c *cluster) departedNamed(snap *mesh.Snapshot, name string) (*mesh.Node, error) {
	if r, ok := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: name}); ok && r.Deleted && !snap.Removed(mesh.NodeID(name)) {
		n := &mesh.Node{ID: mesh.NodeID(name), Name: name}
		if known := c.departed[n.ID]; known != "" {
			n.Name = known
		}
		return n, nil
	}
	var found []mesh.NodeID
	for id, known := range c.departed {
		if known == name && !snap.Removed(id) {
			found = append(found, id)
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return nil, mesh.Refuse(mesh.NotFound, "look at sluice node ls; a node that left is named by its ID, which sluice events shows", "no node is named %.60q", name)
	case 1:
		return &mesh.Node{ID: found[0], Name: name}, nil
	default:
		return nil, mesh.Refuse(mesh.NameTaken, "give one's ID", "several nodes that left were named %q: %v", name, found)
	}
}
