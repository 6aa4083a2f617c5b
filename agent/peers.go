package agent

import (
	"cmp"
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
)

// The methods below are what gossip asks for (gossip.State). None of them blocks
// on the network, and none calls gossip.

// Root stands for all records.
func (c *cluster) Root() mesh.Sum {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Root()
}

// Count is how many records there are.
func (c *cluster) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Count()
}

// Buckets returns the sum of each bucket of records.
func (c *cluster) Buckets() [mesh.BucketCount]mesh.Sum {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Buckets()
}

// Heads returns those of one bucket.
func (c *cluster) Heads(bucket uint8) []mesh.Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Heads(bucket)
}

// Select returns the records of those keys that there are.
func (c *cluster) Select(keys []mesh.Key) []mesh.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	var records []mesh.Record
	for _, k := range keys {
		if r, ok := c.state.Get(k); ok {
			records = append(records, r)
		}
	}
	return records
}

// Merge takes what a peer sent and returns what was new. A record that is not
// believable is left out and logged; the others count.
func (c *cluster) Merge(records []mesh.Record) []mesh.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == outside {
		return nil
	}
	records = c.believable(records)
	own := c.contested(records)
	fresh := c.defend(own, c.mergeLocked(records))
	for _, r := range fresh {
		c.dirty[r.Key()] = true
	}
	if len(fresh) > 0 {
		c.wake()
	}
	return fresh
}

// believable are the records that are valid and not from the far future. A peer sends the others
// again with each exchange, so one line must do for all.
func (c *cluster) believable(records []mesh.Record) []mesh.Record {
	limit := mesh.LatestBelieved(c.now())
	good := make([]mesh.Record, 0, len(records))
	var first error
	for _, r := range records {
		if err := cmp.Or(r.Validate(), r.WrittenBy(limit)); err != nil {
			first = cmp.Or(first, err)
			continue
		}
		good = append(good, r)
	}
	if first != nil {
		c.log.Warn("refused records", "count", len(records)-len(good), "first", first)
	}
	return good
}

// MemberAlive notes that gossip hears a node.
func (c *cluster) MemberAlive(id mesh.NodeID) { c.observe(id, observation{alive: true}) }

// MemberSilent notes that gossip hears a node no longer. It removes nothing: a
// node's kernel carries packets without its agent.
func (c *cluster) MemberSilent(id mesh.NodeID) { c.observe(id, observation{alive: false}) }

// observe keeps what is new, since now.
func (c *cluster) observe(id mesh.NodeID, o observation) {
	if id == c.own.ID {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.seen[id]; ok && have.alive == o.alive {
		return
	}
	o.since = c.now()
	c.seen[id] = o
	if _, known := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(id)}); !known && !o.alive {
		delete(c.seen, id) // whoever has the key of gossip can invent any number
	}
	c.tellHeard(id, o)
	signal(c.heard)
	c.log.Info("a node changed", "node", id, "alive", o.alive)
}

// Peers are the addresses of all other nodes, known from their records: where a
// node that was away, or cut off, looks for the cluster again.
func (c *cluster) Peers() []netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	var peers []netip.AddrPort
	for _, n := range c.snapshotLocked().Nodes {
		if n.ID != c.own.ID {
			peers = append(peers, netip.AddrPortFrom(n.Addr, cmp.Or(n.GossipPort, c.gossip.Port())))
		}
	}
	return peers
}

// Nodes are the IDs of all other nodes, known from their records.
func (c *cluster) Nodes() []mesh.NodeID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []mesh.NodeID
	for _, n := range c.snapshotLocked().Nodes {
		if n.ID != c.own.ID {
			ids = append(ids, n.ID)
		}
	}
	return ids
}
