package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memnet is a network in memory, for bubbles of virtual time. Streams are net.Pipes.
type memnet struct {
	mu        sync.Mutex
	sockets   map[netip.AddrPort]*memsocket
	listeners map[netip.AddrPort]*memlistener
	// Both may be nil. cut tells whether what goes from one address to another is lost, and
	// lose whether a datagram is.
	cut  func(from, to netip.Addr) bool
	lose func() bool
}

func newMemnet() *memnet {
	return &memnet{sockets: map[netip.AddrPort]*memsocket{}, listeners: map[netip.AddrPort]*memlistener{}}
}

func (n *memnet) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// from is the network as one address sees it.
func (n *memnet) from(a netip.Addr) Network { return memhost{n, a} }

type memhost struct {
	net  *memnet
	addr netip.Addr
}

func (h memhost) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	s := &memsocket{net: h.net, at: at, in: make(chan mempacket, 4096), down: make(chan struct{})}
	h.net.set(func() { h.net.sockets[at] = s })
	return s, nil
}

func (h memhost) Listen(at netip.AddrPort) (net.Listener, error) {
	l := &memlistener{net: h.net, at: at, in: make(chan net.Conn), down: make(chan struct{})}
	h.net.set(func() { h.net.listeners[at] = l })
	return l, nil
}

func (h memhost) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var l *memlistener
	cut := false
	h.net.set(func() { l, cut = h.net.listeners[to], h.net.cut != nil && h.net.cut(h.addr, to.Addr()) })
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	select {
	case l.in <- memconn{there, netip.AddrPortFrom(h.addr, 40000)}:
		return memconn{here, to}, nil
	case <-l.down:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memconn struct {
	net.Conn
	peer netip.AddrPort
}

func (c memconn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.peer) }

type memlistener struct {
	net  *memnet
	at   netip.AddrPort
	in   chan net.Conn
	down chan struct{}
	once sync.Once
}

func (l *memlistener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.down:
		return nil, net.ErrClosed
	}
}

func (l *memlistener) Close() error {
	l.once.Do(func() { close(l.down); l.net.set(func() { delete(l.net.listeners, l.at) }) })
	return nil
}

func (l *memlistener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

type mempacket struct {
	data []byte
	from netip.AddrPort
}

// memsocket has no deadlines: nobody sets one.
type memsocket struct {
	net.PacketConn
	net  *memnet
	at   netip.AddrPort
	in   chan mempacket
	down chan struct{}
	once sync.Once
}

func (s *memsocket) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-s.in:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	case <-s.down:
		return 0, nil, os.ErrClosed
	}
}

func (s *memsocket) WriteTo(b []byte, to net.Addr) (int, error) {
	at := netip.MustParseAddrPort(to.String())
	s.net.set(func() {
		if s.net.cut != nil && s.net.cut(s.at.Addr(), at.Addr()) || s.net.lose != nil && s.net.lose() {
			return
		}
		if peer := s.net.sockets[at]; peer != nil {
			select {
			case peer.in <- mempacket{append([]byte(nil), b...), s.at}:
			default:
			}
		}
	})
	return len(b), nil
}

func (s *memsocket) Close() error {
	s.once.Do(func() { close(s.down); s.net.set(func() { delete(s.net.sockets, s.at) }) })
	return nil
}

func (s *memsocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

func memAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 7956)
}

// startIn starts node n in a bubble. The caller closes it.
func startIn(t *testing.T, network *memnet, n int, edit func(*Config), peers ...netip.AddrPort) *node {
	t.Helper()
	m := newMemory()
	m.peers = peers
	cfg := Config{ID: nodeID(n), Bind: memAddr(n), Key: key(1), State: m, Log: slog.New(slog.DiscardHandler), Network: network.from(memAddr(n).Addr())}
	if edit != nil {
		edit(&cfg)
	}
	g, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &node{Gossip: g, memory: m, id: cfg.ID, addr: cfg.Bind}
}

// agree waits, in virtual time, until all hold the same records, and returns how long.
func agree(nodes []*node, limit time.Duration) (time.Duration, error) {
	began := time.Now()
	for time.Since(began) <= limit {
		if same(nodes) {
			return time.Since(began), nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	var counts []int
	for _, n := range nodes {
		counts = append(counts, n.Count())
	}
	return limit, fmt.Errorf("not within %v: they hold %v records", limit, counts)
}

func same(nodes []*node) bool {
	for _, n := range nodes {
		if n.Root() != nodes[0].Root() {
			return false
		}
	}
	return true
}
