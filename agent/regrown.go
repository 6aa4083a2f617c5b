package agent

import "github.com/sluice-mesh/sluice/mesh"

// Of two updates of one network on two sides of a split the later one stays, and the subnets that
// the other one added are not in it. Whoever wrote that one adds them again when it hears: one node,
// so that not all do. Nobody ever takes a subnet away, so there is nothing else that they can be
// missing for. It happens before the node's claims are settled: what has an address there keeps it.

// noteOvertaken notes the subnets that this node wrote and that a newer write of their network does
// not have. The lock is held.
func (c *cluster) noteOvertaken(was, now mesh.Record) {
	if was.Network == nil || now.Network == nil || was.Version.Writer != c.own.ID || now.Version.Writer == c.own.ID {
		return
	}
	if c.overtaken == nil {
		c.overtaken = map[mesh.NetworkID][]mesh.Subnet{}
	}
	c.overtaken[now.Network.ID] = was.Network.More
}

// regrowLocked are the networks with the subnets that they are to have again, until they have them.
// The lock is held.
func (c *cluster) regrowLocked() []mesh.Record {
	var records []mesh.Record
	for id, lost := range c.overtaken {
		have, _ := c.state.Get(mesh.Key{Kind: mesh.KindNetwork, ID: string(id)})
		if have.Network == nil {
			delete(c.overtaken, id)
		} else if again := have.Network.Regrown(lost); again != nil {
			records = append(records, mesh.NetworkRecord(again))
		} else {
			delete(c.overtaken, id)
		}
	}
	return records
}
