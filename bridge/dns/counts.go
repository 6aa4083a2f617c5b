package dns

import "sync/atomic"

// Counts is what a Resolver and its Forwarder have done since they were made.
type Counts struct {
	Queries    uint64 // messages that were questions we could read
	Local      uint64 // answered by the Zone
	Cached     uint64 // answered by the cache while fresh
	Stale      uint64 // answered by the cache after its time, for want of an upstream
	Forwarded  uint64 // asked of the upstreams; askers that waited for the same question counted once
	Joined     uint64 // waited for a question that another had asked
	Failed     uint64 // forwarded and not answered
	Refused    uint64 // by policy: internal networks only, local names only, no recursion wanted, another class
	Overloaded uint64 // SERVFAIL because an asker or all together had too much under way
	Malformed  uint64 // FORMERR
	Dropped    uint64 // never answered: too short to be a message, or itself an answer
	Truncated  uint64 // answers that did not fit and were cut
	Forged     uint64 // messages from an upstream that answered nothing we had asked
	Loops      uint64 // questions that came back to us
	Evicted    uint64 // TCP connections closed in favour of newer ones of the same asker
	Panics     uint64 // messages that made the code fail; each is a bug
}

// counters are the same, counting.
type counters struct {
	queries, local, cached, stale, forwarded, joined, failed, refused, overloaded,
	malformed, dropped, truncated, forged, loops, evicted, panics atomic.Uint64
}

func (c *counters) read() Counts {
	return Counts{
		Queries: c.queries.Load(), Local: c.local.Load(), Cached: c.cached.Load(), Stale: c.stale.Load(),
		Forwarded: c.forwarded.Load(), Joined: c.joined.Load(), Failed: c.failed.Load(), Refused: c.refused.Load(),
		Overloaded: c.overloaded.Load(), Malformed: c.malformed.Load(), Dropped: c.dropped.Load(),
		Truncated: c.truncated.Load(), Forged: c.forged.Load(), Loops: c.loops.Load(),
		Evicted: c.evicted.Load(), Panics: c.panics.Load(),
	}
}

// caught, deferred, keeps one message from ending the names of all endpoints: what made the
// code fail is counted, and not answered.
func (c *counters) caught() {
	if recover() != nil {
		c.panics.Add(1)
	}
}
