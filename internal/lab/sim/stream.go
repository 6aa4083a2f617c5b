package sim

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// backlog is how many connections wait to be accepted.
const backlog = 1024

// listener is a net.Listener.
type listener struct {
	host   *Host
	at     netip.AddrPort
	in     chan *conn
	closed chan struct{}
	once   sync.Once
}

// Accept takes the next connection.
func (l *listener) Accept() (net.Conn, error) {
	var c *conn
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	case c = <-l.in:
	}
	if err := l.host.wait(l.closed); err != nil {
		c.reset()
		return nil, err
	}
	return c, nil
}

// Close frees the port and ends what waits.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.host.net.mu.Lock()
		if l.host.listeners[l.at.Port()] == l {
			delete(l.host.listeners, l.at.Port())
		}
		l.host.net.mu.Unlock()
		for {
			select {
			case c := <-l.in:
				c.reset()
			default:
				return
			}
		}
	})
	return nil
}

// Addr is where it listens.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

// conn is one end of a stream.
type conn struct {
	host          *Host
	local, remote netip.AddrPort
	in, out       *way
	read, write   deadline
	closed        chan struct{}
	once          sync.Once
}

// firstEphemeral is the least port that a dialler gets, as Linux chooses.
const firstEphemeral = 32768

// newConns is a connection's two ends.
func newConns(from, to *Host, at netip.AddrPort) (own, theirs *conn) {
	source := netip.AddrPortFrom(from.addr, uint16(firstEphemeral+rand.IntN(28000)))
	there, back := newWay(from, to), newWay(to, from)
	own = &conn{host: from, local: source, remote: at, in: back, out: there, closed: make(chan struct{})}
	theirs = &conn{host: to, local: at, remote: source, in: there, out: back, closed: make(chan struct{})}
	there.back, back.back = back, there
	return own, theirs
}

// Read takes what has arrived, or waits for it.
func (c *conn) Read(b []byte) (int, error) {
	for {
		if err := c.host.wait(c.closed); err != nil {
			return 0, err
		}
		n, changed, err := c.in.take(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := c.pause(&c.read, changed); err != nil {
			return 0, err
		}
	}
}

// Write sends, and waits where the reader is too far behind.
func (c *conn) Write(b []byte) (int, error) {
	sent := 0
	for sent < len(b) {
		if err := c.host.wait(c.closed); err != nil {
			return sent, err
		}
		select {
		case <-c.closed:
			return sent, net.ErrClosed
		default:
		}
		n, changed, err := c.out.put(b[sent:])
		if sent += n; err != nil {
			return sent, err
		}
		if n == 0 {
			if err := c.pause(&c.write, changed); err != nil {
				return sent, err
			}
		}
	}
	return sent, nil
}

// pause waits for a change, and fails when the deadline passes or the stream is closed.
func (c *conn) pause(d *deadline, changed <-chan struct{}) error {
	at, moved := d.get()
	var passed <-chan time.Time
	if !at.IsZero() {
		left := time.Until(at)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		passed = timer.C
	}
	select {
	case <-changed:
	case <-moved:
	case <-passed:
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
	return nil
}

// Close ends the stream: what was written still arrives.
func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.forget()
		c.out.send(piece{fin: true})
		c.in.abandon()
	})
	return nil
}

// reset ends the stream at once at both ends.
func (c *conn) reset() {
	c.once.Do(func() {
		close(c.closed)
		c.forget()
		c.out.send(piece{err: syscall.ECONNRESET})
		c.in.abandon()
	})
}

// die ends this end without a word to the other.
func (c *conn) die(err error) {
	c.once.Do(func() {
		close(c.closed)
		c.out.fail(err)
		c.in.abandon()
	})
}

func (c *conn) forget() {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	delete(c.host.conns, c)
}

// LocalAddr is this end's address.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the other end's address.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline is for reading and writing.
func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

// SetReadDeadline makes Read fail from then on.
func (c *conn) SetReadDeadline(t time.Time) error { c.read.set(t); return nil }

// SetWriteDeadline makes Write fail from then on, where it has to wait.
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// deadline tells those who wait when it is moved.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	moved chan struct{}
}

func (d *deadline) set(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = at
	if d.moved != nil {
		close(d.moved)
	}
	d.moved = nil
}

func (d *deadline) get() (time.Time, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.moved == nil {
		d.moved = make(chan struct{})
	}
	return d.at, d.moved
}

// way is one direction of a stream: bytes arrive in order, as TCP sees to.
type way struct {
	from, to *Host
	back     *way

	mu        sync.Mutex
	changed   chan struct{} // closed at every change
	flying    []piece
	tries     int
	ready     bytes.Buffer
	ahead     int   // bytes that are flying or ready
	readEnd   error // once ready is empty
	writeEnd  error
	abandoned bool // nobody reads any more
}

type piece struct {
	text []byte
	fin  bool
	err  error     // the stream is reset
	sent time.Time // first
}

func newWay(from, to *Host) *way { return &way{from: from, to: to, changed: make(chan struct{})} }

// note tells those who wait. The lock is held.
func (w *way) note() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// take gives what is there; changed is what to wait for where nothing is.
func (w *way) take(b []byte) (n int, changed <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ready.Len() > 0 {
		n, _ = w.ready.Read(b)
		w.ahead -= n
		w.note()
		return n, nil, nil
	}
	return 0, w.changed, w.readEnd
}

// put sends as much as the window lets through.
func (w *way) put(b []byte) (n int, changed <-chan struct{}, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writeEnd != nil {
		return 0, nil, w.writeEnd
	}
	n = min(len(b), streamWindow-w.ahead)
	if n > 0 {
		w.ahead += n
		w.fly(piece{text: bytes.Clone(b[:n])})
	}
	return n, w.changed, nil
}

// send sends what is no text.
func (w *way) send(p piece) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writeEnd == nil {
		w.writeEnd = net.ErrClosed
		w.fly(p)
	}
}

// fail makes writing fail.
func (w *way) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeEnd, w.flying = err, nil
	w.note()
}

// abandon says that nobody will read: the writer is reset when it sends more.
func (w *way) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandoned, w.readEnd = true, net.ErrClosed
	w.note()
}

// fly puts a piece behind those that are under way. The lock is held.
func (w *way) fly(p piece) {
	p.sent = time.Now()
	w.flying = append(w.flying, p)
	if len(w.flying) == 1 {
		w.depart()
	}
}

// depart sees to it that the first piece arrives. The lock is held.
func (w *way) depart() {
	after, ok := w.from.net.carry(w.from, w.to, len(w.flying[0].text))
	if !ok {
		again := min(retransmitFirst<<min(w.tries, 10), retransmitMost)
		w.tries++
		time.AfterFunc(again, w.retry)
		return
	}
	if w.tries == 0 { // it may have left while the one before was under way
		after -= time.Since(w.flying[0].sent)
	}
	w.tries = 0
	time.AfterFunc(max(after, 0), w.arrive)
}

// giveUpAfter is how often a piece is sent: TCP takes 15 minutes.
const giveUpAfter = 15

func (w *way) retry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.flying) == 0 {
		return
	}
	if w.tries > giveUpAfter {
		w.writeEnd, w.flying = syscall.ETIMEDOUT, nil
		w.note()
		return
	}
	w.depart()
}

// arrive takes the first piece in.
func (w *way) arrive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.flying) == 0 {
		return
	}
	p := w.flying[0]
	w.flying = w.flying[1:]
	switch {
	case p.err != nil:
		w.readEnd = p.err
		w.ready.Reset()
		time.AfterFunc(0, func() { w.back.fail(p.err) }) // which has a lock of its own
	case w.abandoned:
		w.writeEnd, w.flying = syscall.ECONNRESET, nil
	case p.fin:
		w.readEnd = io.EOF
	default:
		w.ready.Write(p.text)
	}
	w.note()
	if len(w.flying) > 0 {
		w.depart()
	}
}
