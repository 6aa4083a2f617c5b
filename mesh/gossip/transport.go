package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist.NodeAwareTransport over a Network. Its streams to others end when
// ctx ends, so that Close need not wait for a peer that does not answer.
type transport struct {
	ctx      context.Context
	network  Network
	self     netip.AddrPort
	book     *logbook
	packets  net.PacketConn
	listener net.Listener

	door    *door
	serve   func(*guest) // takes a protected stream, and ends it
	in      chan *memberlist.Packet
	streams chan net.Conn
	down    chan struct{} // closed by Shutdown
	once    sync.Once
	tasks   sync.WaitGroup
}

func listen(ctx context.Context, network Network, bind netip.AddrPort, book *logbook, serve func(*guest)) (*transport, error) {
	listener, err := network.Listen(bind)
	if err != nil {
		return nil, refuseBind(bind, err)
	}
	packets, err := network.ListenPacket(bind)
	if err != nil {
		return nil, errors.Join(refuseBind(bind, err), listener.Close())
	}
	t := &transport{
		ctx: ctx, network: network, self: bind, book: book, packets: packets, listener: listener, door: newDoor(book), serve: serve,
		in: make(chan *memberlist.Packet), streams: make(chan net.Conn), down: make(chan struct{}),
	}
	t.tasks.Go(t.readPackets)
	t.tasks.Go(t.accept)
	return t, nil
}

// errorPause keeps a socket that fails at once from taking a whole CPU.
const errorPause = 10 * time.Millisecond

// pause tells whether to go on after an error.
func (t *transport) pause(what string, err error) bool {
	select {
	case <-t.down:
		return false
	default:
	}
	t.book.Warn("gossip socket failed", "socket", what, "err", err)
	select {
	case <-t.down:
		return false
	case <-time.After(errorPause):
		return true
	}
}

func (t *transport) readPackets() {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := t.packets.ReadFrom(buffer)
		now := time.Now()
		if err != nil {
			if !t.pause("packets", err) {
				return
			}
			continue
		}
		if n == 0 {
			continue
		}
		select {
		case t.in <- &memberlist.Packet{Buf: bytes.Clone(buffer[:n]), From: from, Timestamp: now}:
		case <-t.down:
			return
		}
	}
}

func (t *transport) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			if !t.pause("streams", err) {
				return
			}
			continue
		}
		guest := t.door.enter(conn)
		t.tasks.Go(func() { t.sort(guest) })
	}
}

// firstByteTimeout is how long a stream may take to say what it is: a lost segment is
// sent again within a second.
const firstByteTimeout = 3 * time.Second

// sort hands a stream to who speaks its language; the first byte tells. memberlist begins
// with the number of a message, up to 13, or of a label, 244.
func (t *transport) sort(g *guest) {
	var first [1]byte
	_ = g.SetReadDeadline(time.Now().Add(firstByteTimeout)) // a stream that cannot have one fails to read
	if _, err := io.ReadFull(g, first[:]); err != nil {
		_ = g.Close()
		return
	}
	_ = g.SetReadDeadline(time.Time{})
	g.first = first[:]
	if first[0] == tlsByte || first[0] == keyedByte {
		if g.greets(t.ctx) {
			t.serve(g)
		}
		_ = g.Close() // serve has done so, maybe
		return
	}
	select {
	case t.streams <- g:
	case <-t.down:
		_ = g.Close()
	}
}

// FinalAdvertiseAddr is where the others reach this node: where it listens.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.self.Addr().AsSlice(), int(t.self.Port()), nil
}

// PacketCh gives what comes in datagrams.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.in }

// StreamCh gives the streams that others have begun.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo sends a datagram and returns when it left.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("read address of a datagram: %w", err)
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress sends a datagram to a member.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialAddressTimeout connects a stream to a member.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// DialTimeout connects a stream to an address.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("read address of a stream: %w", err)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.network.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn, stop: context.AfterFunc(t.ctx, func() { _ = conn.Close() })}, nil
}

// Shutdown stops listening and waits until nothing comes in any more.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		close(t.down)
		err = errors.Join(t.listener.Close(), t.packets.Close())
		t.door.close()
	})
	t.tasks.Wait()
	return err
}

type stream struct {
	net.Conn
	stop func() bool
}

func (s *stream) Close() error {
	s.stop()
	return s.Conn.Close()
}
