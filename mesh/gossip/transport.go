package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// transport is memberlist's own, but its outgoing streams end when ctx ends:
// Close need not wait for a peer that does not answer.
type transport struct {
	*memberlist.NetTransport
	ctx context.Context
}

func listen(ctx context.Context, bind netip.AddrPort, book *logbook) (*transport, error) {
	sockets, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{bind.Addr().String()}, BindPort: int(bind.Port()), Logger: book.std(),
	})
	if err != nil {
		return nil, refuseBind(bind, err)
	}
	return &transport{NetTransport: sockets, ctx: ctx}, nil
}

// refuseBind asks the kernel once more, since memberlist flattens its errors to text.
func refuseBind(bind netip.AddrPort, cause error) error {
	err := tryBind(bind)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return mesh.Refuse(PortInUse, fmt.Sprintf("see who has it with 'ss -lnptu sport = :%d', or start the agent with another --gossip-port", bind.Port()),
			"gossip port %s is in use", bind)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return mesh.Refuse(mesh.BadAddress, "start the agent with --advertise ADDR, an address of this host", "gossip address %s is not one of this host's", bind.Addr())
	default:
		return fmt.Errorf("listen on %s: %w", bind, cause)
	}
}

func tryBind(bind netip.AddrPort) error {
	t, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind))
	if err != nil {
		return err
	}
	defer t.Close()
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bind))
	if err != nil {
		return err
	}
	return u.Close()
}

// DialAddressTimeout connects a stream to a member.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn, stop: context.AfterFunc(t.ctx, func() { _ = conn.Close() })}, nil
}

// DialTimeout connects a stream to an address.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

type stream struct {
	net.Conn
	stop func() bool
}

func (s *stream) Close() error {
	s.stop()
	return s.Conn.Close()
}
