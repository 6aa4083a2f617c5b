package gossip

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// What streams may hold of this node while it is not known who is at their other end.
// Peers have their share apart from strangers: these cannot use it up.
const (
	strangerLimit = 256      // streams from addresses that are no peer's, all together
	sourceLimit   = 32       // streams from one address, a peer's too: others may live there
	sourceFew     = 4        // streams from one address that others of strangers make room for
	guestBytes    = 4 << 20  // read from one stream: 20,000 members, or one large record
	strangerBytes = 32 << 20 // read from open streams of strangers, all together
	sourceBytes   = 8 << 20  // read from open streams of one address
)

// metFor is how long an address counts as a peer's after a node has named itself from there.
const metFor = 10 * time.Minute

var errCrowded = errors.New("the stream was closed in favour of others, or has sent too much")

// door lets streams in. Where there are too many of a kind, the oldest one that has not
// named itself gives way, of those of a crowd first: an honest stream is over in milliseconds, so that a crowd of
// idle ones does not keep it out. Safe for concurrent use.
type door struct {
	book      *logbook
	greetings *greetings

	mu        sync.Mutex
	closed    bool
	peers     map[netip.Addr]bool      // where the nodes of the records are
	met       map[netip.Addr]time.Time // where a node has named itself, and when
	sources   map[netip.Addr]*source
	strangers list.List // of *guest, the oldest first
	bytes     int       // read from strangers
}

// source is one address: of IPv6 the /64, since who has one address has them all.
type source struct {
	guests list.List // of *guest, the oldest first
	bytes  int
}

func newDoor(book *logbook) *door {
	return &door{book: book, greetings: newGreetings(), met: map[netip.Addr]time.Time{}, sources: map[netip.Addr]*source{}}
}

func sourceOf(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{} // all of a network that has other addresses are one source
	}
	return sourceAddr(at.Addr())
}

func sourceAddr(a netip.Addr) netip.Addr {
	if a = a.Unmap(); a.Is4() {
		return a
	}
	block, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return block.Addr()
}

// expect says where the nodes of the records are.
func (d *door) expect(peers []netip.AddrPort) {
	known := make(map[netip.Addr]bool, len(peers))
	for _, p := range peers {
		known[sourceAddr(p.Addr())] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peers = known
	for a, at := range d.met {
		if time.Since(at) > metFor {
			delete(d.met, a)
		}
	}
}

// enter takes a stream in, maybe in the place of another. The guest belongs to the caller.
func (d *door) enter(conn net.Conn) *guest {
	g := &guest{Conn: conn, door: d, from: sourceOf(conn.RemoteAddr())}
	d.mu.Lock()
	closed := d.closed
	var out *guest
	if !closed {
		out = d.admit(g)
	}
	d.mu.Unlock()
	if closed {
		_ = conn.Close() // the node ends
	}
	if out != nil {
		_ = out.Conn.Close()
		d.book.Warn("gossip stream closed in favour of another", "from", out.from)
	}
	return g
}

func (d *door) admit(g *guest) (out *guest) {
	s := d.sources[g.from]
	if s == nil {
		s = &source{}
		d.sources[g.from] = s
	}
	_, met := d.met[g.from]
	stranger := !met && !d.peers[g.from]
	switch {
	case s.guests.Len() >= sourceLimit:
		out, _ = s.guests.Front().Value.(*guest)
	case stranger && d.strangers.Len() >= strangerLimit:
		out = d.oldestStranger()
	}
	g.mine = s.guests.PushBack(g) // before the other goes: a source without guests is forgotten
	if stranger {
		g.strange = d.strangers.PushBack(g)
	}
	if out != nil {
		d.strike(out)
	}
	return out
}

// oldestStranger is the oldest of an address that has more than a few: who has to wait for his
// turn is soon older than a crowd that comes all the time. Where all have few it is the oldest.
func (d *door) oldestStranger() *guest {
	for e := d.strangers.Front(); e != nil; e = e.Next() {
		if g, ok := e.Value.(*guest); ok && d.sources[g.from].guests.Len() > sourceFew {
			return g
		}
	}
	g, _ := d.strangers.Front().Value.(*guest)
	return g
}

// strike takes a guest off the lists; what it does afterwards is not counted.
func (d *door) strike(g *guest) {
	if g.mine == nil {
		return
	}
	s := d.sources[g.from]
	s.guests.Remove(g.mine)
	s.bytes -= g.bytes
	if s.guests.Len() == 0 {
		delete(d.sources, g.from)
	}
	if g.strange != nil {
		d.strangers.Remove(g.strange)
		d.bytes -= g.bytes
	}
	g.mine, g.strange = nil, nil
}

// charge counts what a guest has sent and tells whether that is allowed.
func (d *door) charge(g *guest, n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.mine == nil {
		return g.named
	}
	s := d.sources[g.from]
	g.bytes, s.bytes = g.bytes+n, s.bytes+n
	if g.strange != nil {
		d.bytes += n
	}
	return g.bytes <= guestBytes && s.bytes <= sourceBytes && (g.strange == nil || d.bytes <= strangerBytes)
}

// close closes all guests, and those that come.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, s := range d.sources {
		for e := s.guests.Front(); e != nil; e = e.Next() {
			if g, ok := e.Value.(*guest); ok {
				_ = g.Conn.Close()
			}
		}
	}
}

// guest is an incoming stream. It counts until it is closed or has named itself.
type guest struct {
	net.Conn
	door  *door
	from  netip.Addr
	first []byte // read already, and not yet by who reads; of one goroutine

	// Of door.mu.
	mine, strange *list.Element // nil where it does not count
	bytes         int
	named         bool
}

// Read fails where the stream has sent more than the door lets through.
func (g *guest) Read(b []byte) (int, error) {
	if len(g.first) > 0 && len(b) > 0 {
		n := copy(b, g.first)
		g.first = g.first[n:]
		return n, nil
	}
	n, err := g.Conn.Read(b)
	if n > 0 && !g.door.charge(g, n) {
		_ = g.Close()
		return 0, errCrowded
	}
	return n, err
}

// greets tells whether the stream may be protected, maybe after a wait: a stranger's has to
// take its turn, and may have been closed in favour of others meanwhile.
func (g *guest) greets(ctx context.Context) bool {
	for range greetingsTries {
		stranger, here := g.standing()
		if !here || !stranger {
			return here
		}
		wait := g.door.greetings.take(g.from, time.Now())
		if wait == 0 {
			return true
		}
		if !sleep(ctx, wait+rand.N(greetingSpread)) {
			return false
		}
	}
	g.door.book.Warn("stream refused, too many strangers ask for protection", "from", g.from)
	return false
}

// greetingSpread keeps those who waited from coming in the order in which they did the last time.
const greetingSpread = 50 * time.Millisecond

// standing tells whether it is a stranger's, and whether it counts still.
func (g *guest) standing() (stranger, here bool) {
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	return g.strange != nil, g.mine != nil
}

// Close ends the stream.
func (g *guest) Close() error {
	g.door.mu.Lock()
	g.door.strike(g)
	g.door.mu.Unlock()
	return g.Conn.Close()
}

// name notes that it is known who is at the other end: from now on other limits hold,
// and the address is a peer's.
func (g *guest) name() {
	d := g.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if g.mine == nil {
		return // closed meanwhile
	}
	d.strike(g)
	g.named = true
	d.met[g.from] = time.Now()
}
