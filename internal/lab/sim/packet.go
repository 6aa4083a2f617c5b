package sim

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// socketRoom is how many datagrams a socket holds for a process that is slow: what the usual
// 208 kB of a socket hold of small ones.
const socketRoom = 270

type datagram struct {
	from netip.AddrPort
	text []byte
}

// packetConn is a net.PacketConn without deadlines.
type packetConn struct {
	host   *Host
	at     netip.AddrPort
	in     chan datagram
	closed chan struct{}
	once   sync.Once
}

// ReadFrom takes the next datagram.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	var d datagram
	select {
	case <-c.closed:
		return 0, nil, net.ErrClosed
	case d = <-c.in:
	}
	if err := c.host.wait(c.closed); err != nil {
		return 0, nil, err
	}
	return copy(b, d.text), net.UDPAddrFromAddrPort(d.from), nil
}

// WriteTo sends a datagram. That it is lost is no error, as it is none on a real network.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if err := c.host.wait(c.closed); err != nil {
		return 0, err
	}
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	udp, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, syscall.EAFNOSUPPORT
	}
	to := udp.AddrPort()
	peer := c.host.net.find(to.Addr())
	if peer == nil {
		return len(b), nil
	}
	d := datagram{c.at, bytes.Clone(b)}
	for _, after := range c.host.net.post(c.host, peer, len(b)) {
		time.AfterFunc(after, func() { peer.deliver(to.Port(), d) })
	}
	return len(b), nil
}

// deliver puts a datagram into the socket of a port, if there is one with room.
func (h *Host) deliver(port uint16, d datagram) {
	h.net.mu.Lock()
	c := h.packets[port]
	if h.off {
		c = nil
	}
	h.net.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case c.in <- d:
	default:
		h.net.overflowed()
	}
}

// Close frees the port.
func (c *packetConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.host.net.mu.Lock()
		defer c.host.net.mu.Unlock()
		if c.host.packets[c.at.Port()] == c {
			delete(c.host.packets, c.at.Port())
		}
	})
	return nil
}

// LocalAddr is where the socket is bound.
func (c *packetConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }

var errNoDeadline = errors.Join(errors.ErrUnsupported, os.ErrNoDeadline)

// SetDeadline is not supported, nor are the others: a datagram socket is read until it is closed.
func (c *packetConn) SetDeadline(time.Time) error { return errNoDeadline }

// SetReadDeadline is not supported.
func (c *packetConn) SetReadDeadline(time.Time) error { return errNoDeadline }

// SetWriteDeadline is not supported.
func (c *packetConn) SetWriteDeadline(time.Time) error { return errNoDeadline }
