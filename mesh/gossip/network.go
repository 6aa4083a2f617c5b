package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/sluice-mesh/sluice/mesh"
)

// Network is what a node sends and receives by: the host's, or a simulated one. Its
// methods are safe for concurrent use, and so is what they return. An error of a Listen
// method that is syscall.EADDRINUSE or EADDRNOTAVAIL is told as such.
type Network interface {
	// ListenPacket receives datagrams at an address, and sends from it.
	ListenPacket(at netip.AddrPort) (net.PacketConn, error)
	// Listen takes streams at an address.
	Listen(at netip.AddrPort) (net.Listener, error)
	// Dial connects a stream, or gives up when ctx ends.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Host is the Network of the network namespace that the program runs in.
func Host() Network { return host{} }

// host is the Network of the network namespace that the agent runs in.
type host struct{}

// receiveBuffer is what the kernel is asked to keep for a process that is slow, in bytes; it
// gives less where its limit is lower.
const receiveBuffer = 2 << 20

// ListenPacket opens a UDP socket.
func (host) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	if err := conn.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Listen opens a TCP socket.
func (host) Listen(at netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
}

// Dial connects by TCP.
func (host) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}

func refuseBind(bind netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return mesh.Refuse(PortInUse, fmt.Sprintf("see who has it with 'ss -lnptu sport = :%d', or start the agent with another --gossip-port", bind.Port()),
			"gossip port %s is in use", bind)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return mesh.Refuse(mesh.BadAddress, "start the agent with --advertise ADDR, an address of this host", "gossip address %s is not one of this host's", bind.Addr())
	default:
		return fmt.Errorf("listen on %s: %w", bind, err)
	}
}
