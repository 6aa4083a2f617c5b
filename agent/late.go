package agent

import "github.com/sluice-mesh/sluice/mesh"

// A node that is being removed holds the keys of now until the others have gone on, and can let
// somebody in that nobody else knows. The rotation that was made with the removal is not sealed to
// such a one; another that is made from the same keys, since a second node is removed at once or the
// first rotation lost against one from beyond a split, must not be either.

// late are nodes that came in while a removed one held the keys of this node's membership. Guarded
// by the cluster's mu.
type late struct {
	under *membership // by whose keys this node went when a removal came in; nil: none has
	nodes map[mesh.NodeID]bool
}

// noteLate looks at a record that has changed the state, in the place of was. Only who had the
// present keys when the removal came in can tell who came after it: to a node that took them up
// later all of the others' nodes are new.
func (c *cluster) noteLate(was, now mesh.Record) {
	switch {
	case now.Removal != nil:
		if c.late.under != c.member {
			c.late = late{under: c.member, nodes: map[mesh.NodeID]bool{}}
		}
	case now.Node != nil && was.Body == nil && c.member != nil && c.late.under == c.member:
		c.late.nodes[now.Node.ID] = true
	}
}

// isLate tells whether a node may not get the next keys, nor make them. The lock is held.
func (c *cluster) isLate(id mesh.NodeID) bool { return c.late.under == c.member && c.late.nodes[id] }
