package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// lookup is what makes two questions the same one: answers with and without signatures, and
// those that no validator has checked, are kept apart.
type lookup struct {
	name   string // lower case
	qtype  uint16
	do, cd bool
}

func keyOf(q *query) lookup {
	return lookup{
		name: lower(q.question.Name), qtype: q.question.Qtype,
		do: q.opt != nil && q.opt.Do(), cd: q.msg.CheckingDisabled,
	}
}

// result is what is known from outside about a lookup.
type result struct {
	msg   *dns.Msg // the caller's own; nil: a failure
	code  uint16   // of a failure, as an extended error (RFC 8914)
	text  string
	stale bool // its time is over
	// quiet is set where a failure or a stale answer is so young that the upstreams need not be
	// tried again.
	quiet bool
}

const (
	maxTTL      = 24 * time.Hour
	maxNegative = time.Hour        // RFC 2308 5 lets three
	maxStale    = 24 * time.Hour   // RFC 8767 5 suggests one to three days
	staleTTL    = 30               // seconds; RFC 8767 5
	retryStale  = 30 * time.Second // RFC 8767 5: how long a failure is not tried again while there is a stale answer
	keepFailure = time.Second      // RFC 9520 3.2: the least
	maxCached   = 16 << 10         // bytes of one message
)

// cache keeps answers of the upstreams, the least recently used leaves first. It keeps them as
// bytes, so that its size is known.
type cache struct {
	mu      sync.Mutex
	entries map[lookup]*list.Element
	used    *list.List // of *entry, the most recently used first
	bytes   int
	limit   int // bytes
	epoch   int // entries of an older one are stale
}

type entry struct {
	key     lookup
	wire    []byte // nil: a failure
	failure result
	epoch   int
	stored  time.Time
	ends    time.Time
	retry   time.Time // not before this are the upstreams asked for what is stale
}

// entryCost is about what an entry takes beside its bytes.
const entryCost = 300

func newCache(limit int) *cache {
	return &cache{entries: map[lookup]*list.Element{}, used: list.New(), limit: limit}
}

// get returns what is known; what is too old even to be stale is not.
func (c *cache) get(k lookup, now time.Time) (result, bool) {
	c.mu.Lock()
	at, ok := c.entries[k]
	if !ok {
		c.mu.Unlock()
		return result{}, false
	}
	e := at.Value.(*entry)
	old := e.epoch != c.epoch
	over := old || !now.Before(e.ends)
	if over && (e.wire == nil || now.After(e.ends.Add(maxStale))) {
		c.remove(at)
		c.mu.Unlock()
		return result{}, false
	}
	c.used.MoveToFront(at)
	quiet := !old && now.Before(e.retry)
	c.mu.Unlock() // what get reads below never changes
	if e.wire == nil {
		return e.failure, true
	}
	msg := &dns.Msg{}
	if err := msg.Unpack(e.wire); err != nil {
		return result{}, false
	}
	age(msg, now.Sub(e.stored))
	if over {
		forEach(msg, func(h *dns.RR_Header) { h.Ttl = staleTTL })
	}
	return result{msg: msg, stale: over, quiet: quiet}, true
}

// put keeps an answer for as long as it says itself. epoch is the cache's when it was asked for.
func (c *cache) put(k lookup, msg *dns.Msg, epoch int, now time.Time) {
	ttl := lifetime(k, msg)
	if ttl <= 0 {
		return
	}
	m := *msg
	m.Compress = true
	wire, err := m.Pack()
	if err != nil || len(wire) > maxCached {
		return
	}
	c.add(&entry{key: k, wire: wire, epoch: epoch, stored: now, ends: now.Add(ttl)})
}

// fail notes that the upstreams did not answer.
func (c *cache) fail(k lookup, failure result, epoch int, now time.Time) {
	c.mu.Lock()
	if at, ok := c.entries[k]; ok {
		if e := at.Value.(*entry); e.wire != nil {
			// A copy, since get reads an entry without the lock.
			next := *e
			next.retry = now.Add(retryStale)
			at.Value = &next
			c.mu.Unlock()
			return
		}
	}
	c.mu.Unlock()
	failure.quiet = true
	c.add(&entry{key: k, failure: failure, epoch: epoch, stored: now, ends: now.Add(keepFailure)})
}

func (c *cache) add(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[e.key]; ok {
		c.remove(at)
	}
	c.entries[e.key] = c.used.PushFront(e)
	c.bytes += e.size()
	for c.bytes > c.limit {
		c.remove(c.used.Back())
	}
}

func (e *entry) size() int { return entryCost + 2*len(e.key.name) + len(e.wire) }

func (c *cache) remove(at *list.Element) {
	e := c.used.Remove(at).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.size()
}

// turn makes all that is kept stale: other upstreams may know better.
func (c *cache) turn() {
	c.mu.Lock()
	c.epoch++
	c.mu.Unlock()
}

func (c *cache) now() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// lifetime is how long an answer may be kept; 0: not at all. A negative one lives by its SOA
// (RFC 2308 3 and 5), and without one it is not kept.
func lifetime(k lookup, msg *dns.Msg) time.Duration {
	least, positive := maxTTL, false
	for _, rr := range msg.Answer {
		h := rr.Header()
		least = min(least, ttlOf(h))
		positive = positive || h.Rrtype == k.qtype
	}
	if positive && msg.Rcode == dns.RcodeSuccess {
		return least
	}
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			minimum := &dns.RR_Header{Ttl: soa.Minttl}
			return min(least, ttlOf(&soa.Hdr), ttlOf(minimum), maxNegative)
		}
	}
	return 0
}

// ttlOf reads a TTL; one with the highest bit set means zero (RFC 2181 8).
func ttlOf(h *dns.RR_Header) time.Duration {
	if h.Ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(h.Ttl) * time.Second
}

// age counts the TTLs of a kept answer down.
func age(msg *dns.Msg, by time.Duration) {
	seconds := uint32(by / time.Second)
	forEach(msg, func(h *dns.RR_Header) { h.Ttl -= min(seconds, h.Ttl) })
}

func forEach(msg *dns.Msg, do func(*dns.RR_Header)) {
	for _, section := range [][]dns.RR{msg.Answer, msg.Ns, msg.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				do(rr.Header())
			}
		}
	}
}
