package mesh

import "time"

// A tombstone may be forgotten once no node can have anything left that it deletes. No clock
// says when: a node may be away for any time. Each node says in its own record until when it
// has everything that the others wrote (Node.Synced), and what all of them have had for
// Horizon is dropped. So that is a function of the records alone, and nodes that have the
// same records have the same tombstones. A node that is away holds this up until it is back
// or its record is deleted; then it has to join anew, with nothing.

// Horizon is how much longer a tombstone is kept than it has to be: it is dropped when every
// node says that it has what was written until Horizon later.
const Horizon = 14 * 24 * time.Hour

const horizonMicros = uint64(Horizon / time.Microsecond)

// Expiry is the time of the latest write whose tombstone is dropped, as of the last Expire; 0:
// none is.
func (s *State) Expiry() uint64 { return s.expiry }

// Expire drops what no node needs by what the node records say now, and returns the keys of all
// that was dropped since the last call: the disk need not keep them either. It is called when
// a message has been merged, or the whole disk, and not for each record: the first node
// records without the others would say that too much can go.
func (s *State) Expire() []Key {
	before := s.expiry
	if s.expiry = expiryOf(s.synced); s.expiry > before {
		for k, r := range s.records {
			if s.expired(r) {
				s.drop(k)
			}
		}
	}
	dropped := s.dropped
	s.dropped = nil
	return dropped
}

// Now is what this node tells a peer, before it gives everything that it has, of its own
// time: none of its later writes is at or before it.
func (s *State) Now(wallMicros uint64) uint64 {
	s.told = max(s.Seen(), wallMicros)
	return s.told
}

// expired tells whether r is a tombstone that nobody needs.
func (s *State) expired(r Record) bool { return r.Deleted && r.Version.Time <= s.expiry }

// noteNode keeps up what the nodes say.
func (s *State) noteNode(k Key) {
	r, ok := s.records[k]
	removal, out := s.records[Key{KindRemoval, k.ID}]
	switch {
	case out: // whatever it wrote since
		s.say(k, synced{left: removal.Version.Time})
	case !ok:
		delete(s.synced, NodeID(k.ID))
	case r.Deleted:
		s.say(k, synced{left: r.Version.Time})
	default:
		s.say(k, synced{until: r.Node.Synced})
	}
}

// Expiring tells whether a tombstone would be dropped if all nodes said that they are in
// sync until then.
func (s *State) Expiring(until uint64) bool {
	if until <= horizonMicros {
		return false
	}
	for _, r := range s.records {
		if r.Deleted && r.Version.Time <= until-horizonMicros {
			return true
		}
	}
	return false
}

func (s *State) say(k Key, said synced) {
	if s.synced == nil {
		s.synced = map[NodeID]synced{}
	}
	s.synced[NodeID(k.ID)] = said
}

func (s *State) drop(k Key) {
	delete(s.records, k)
	s.digest[BucketOf(k)].drop(k)
	s.dropped = append(s.dropped, k)
	if k.Kind == KindNode {
		delete(s.synced, NodeID(k.ID))
	}
}

// synced is what one node's record says; left is when it was deleted, or 0.
type synced struct{ until, left uint64 }

// expiryOf is 0 until every node has said to be in sync since the last one left: that one may
// have told something to only one of them.
func expiryOf(nodes map[NodeID]synced) uint64 {
	until, left, live := uint64(timeLimit), uint64(0), false
	for _, n := range nodes {
		if left = max(left, n.left); n.left == 0 {
			until, live = min(until, n.until), true
		}
	}
	if !live || until <= left || until <= horizonMicros {
		return 0
	}
	return until - horizonMicros
}

// Contacts are the times until which this node has everything that each other node wrote.
// The zero value is that of a node that has met nobody. Not safe for concurrent use.
type Contacts struct{ until map[NodeID]uint64 }

// Met notes that this node has merged everything that another had when that one's State.Now
// was until.
func (c *Contacts) Met(id NodeID, until uint64) {
	if c.until == nil {
		c.until = map[NodeID]uint64{}
	}
	c.until[id] = max(c.until[id], until)
}

// syncedPeriod is how often a node writes its record only to say that it is in sync.
const syncedPeriod = uint64(24 * time.Hour / time.Microsecond)

// Synced is the Node.Synced that self can say at the time now, and whether it is worth a
// write: once a day, and soon after a node has left.
func (c *Contacts) Synced(s *State, self NodeID, now uint64) (until uint64, due bool) {
	until = now
	for id, said := range s.synced {
		if id != self && said.left == 0 {
			until = min(until, c.until[id])
		}
	}
	have := s.synced[self].until
	if until <= have {
		return have, false
	}
	var left uint64
	for _, said := range s.synced {
		left = max(left, said.left)
	}
	return until, until-have >= syncedPeriod || have <= left && left < until
}
