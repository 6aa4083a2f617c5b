package sim

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Host is a machine with one process on it, a node's agent. It implements gossip.Network.
type Host struct {
	net  *Network
	addr netip.Addr

	// Below: guarded by net.mu.
	off       bool          // no power
	running   chan struct{} // closed while the process runs, open while it is stopped
	packets   map[uint16]*packetConn
	listeners map[uint16]*listener
	conns     map[*conn]bool
}

// Pause stops the process as SIGSTOP does: nothing is read or sent by it, the kernel goes on
// to take what comes. Timers of the process run on, and what they did shows after Resume.
func (h *Host) Pause() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	select {
	case <-h.running:
		h.running = make(chan struct{})
	default:
	}
}

// Resume lets the process run again.
func (h *Host) Resume() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	select {
	case <-h.running:
	default:
		close(h.running)
	}
}

// PowerOff makes the machine silent: whoever is connected hears nothing.
func (h *Host) PowerOff() {
	h.net.mu.Lock()
	h.off = true
	conns := h.takeConns()
	h.net.mu.Unlock()
	for _, c := range conns {
		c.die(net.ErrClosed)
	}
}

// PowerOn makes it a machine again on which nothing runs yet.
func (h *Host) PowerOn() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.off = false
}

// Hangup ends every connection of the process, as its kernel does when it has died.
func (h *Host) Hangup() {
	h.net.mu.Lock()
	conns := h.takeConns()
	h.net.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
}

func (h *Host) takeConns() []*conn {
	conns := make([]*conn, 0, len(h.conns))
	for c := range h.conns {
		conns = append(conns, c)
	}
	clear(h.conns)
	return conns
}

// wait returns when the process runs, or with an error when closed is.
func (h *Host) wait(closed <-chan struct{}) error {
	for {
		h.net.mu.Lock()
		running := h.running
		h.net.mu.Unlock()
		select {
		case <-running:
			return nil
		default:
		}
		select {
		case <-running:
		case <-closed:
			return net.ErrClosed
		}
	}
}

// ListenPacket opens a datagram socket.
func (h *Host) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if err := h.mayBind(at); err != nil {
		return nil, err
	}
	if h.packets[at.Port()] != nil {
		return nil, syscall.EADDRINUSE
	}
	c := &packetConn{host: h, at: at, in: make(chan datagram, socketRoom), closed: make(chan struct{})}
	h.packets[at.Port()] = c
	return c, nil
}

// Listen opens a stream socket.
func (h *Host) Listen(at netip.AddrPort) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if err := h.mayBind(at); err != nil {
		return nil, err
	}
	if h.listeners[at.Port()] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{host: h, at: at, in: make(chan *conn, backlog), closed: make(chan struct{})}
	h.listeners[at.Port()] = l
	return l, nil
}

func (h *Host) mayBind(at netip.AddrPort) error {
	if at.Addr() != h.addr {
		return syscall.EADDRNOTAVAIL
	}
	return nil
}

// Dial connects a stream: a first packet there and one back, sent again after 1, 3 and 7 s.
func (h *Host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	const first = time.Second
	for again := first; ; again *= 2 {
		if err := h.wait(ctx.Done()); err != nil {
			return nil, context.Cause(ctx)
		}
		c, pause, err := h.connect(to)
		if err == nil && c == nil {
			pause = again
		}
		select {
		case <-ctx.Done():
			if c != nil {
				_ = c.Close()
			}
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
		if c != nil || err != nil {
			return c, err
		}
	}
}

// connect tries once. It gives how long it takes to know; no connection and no error where
// nothing answers.
func (h *Host) connect(to netip.AddrPort) (*conn, time.Duration, error) {
	peer := h.net.find(to.Addr())
	if peer == nil {
		return nil, 0, nil
	}
	there, ok := h.net.carry(h, peer, 0)
	if !ok {
		return nil, 0, nil
	}
	back, ok := h.net.carry(peer, h, 0)
	if !ok {
		return nil, 0, nil
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	l := peer.listeners[to.Port()]
	if l == nil {
		return nil, there + back, syscall.ECONNREFUSED
	}
	own, theirs := newConns(h, peer, to)
	select {
	case l.in <- theirs:
	default:
		return nil, 0, nil
	}
	h.net.traffic.Streams++
	h.conns[own], peer.conns[theirs] = true, true
	return own, there + back, nil
}
