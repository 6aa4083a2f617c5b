package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// LoopbackDown is the reason of a refusal by ListenNames: lo is down in the namespace.
const LoopbackDown plan.Reason = "LoopbackDown"

// namesBacklog is how many TCP connections wait to be accepted; the kernel's own limit may be less.
const namesBacklog = 128

// namesQueue is how many bytes of questions wait to be read; the kernel doubles it, and a short one
// takes about 800.
const namesQueue = 1 << 20

// ListenNames opens what a name server is asked by, UDP and TCP at one IPv4 address, in the
// namespace of a sandbox, and both or neither. Where another server has the port on all addresses
// there, it does as ListenNamesAside. The sockets keep the namespace alive until they are closed;
// where lo is down, it is for the workload's owner to set it up. Safe beside Apply.
func (k *Kernel) ListenNames(sandbox string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	packets, listener, err := k.listenNames(sandbox, at, direct{})
	if errors.Is(err, syscall.EADDRINUSE) {
		return k.ListenNamesAside(sandbox, at)
	}
	return packets, listener, namesRefusal(sandbox, at, err)
}

// ListenNamesAside leaves the port of at free for a server of the workload, at whatever address:
// the sockets have others, and a table in the namespace leads who asks at at there. It goes with
// the sandbox, or with the next ListenNames.
func (k *Kernel) ListenNamesAside(sandbox string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	packets, listener, err := k.listenNames(sandbox, at, aside{})
	return packets, listener, namesRefusal(sandbox, at, err)
}

// namesWay is how the sockets of a name server come to be asked.
type namesWay interface {
	// port is what they are bound to.
	port(at netip.AddrPort) netip.AddrPort
	// lead makes the namespace lead to them; udp and tcp are their ports.
	lead(n *namespace, at netip.AddrPort, udp, tcp uint16) error
}

func (k *Kernel) listenNames(sandbox string, at netip.AddrPort, way namesWay) (net.PacketConn, net.Listener, error) {
	n, err := openNamespace(sandbox, plan.KindEndpoint, k.Path(sandbox))
	if err != nil {
		return nil, nil, fmt.Errorf("open sandbox: %w", err)
	}
	defer n.close()
	udp, tcp := -1, -1
	err = n.do(func() (err error) {
		if udp, err = boundSocket(unix.SOCK_DGRAM, way.port(at)); err != nil {
			return err
		}
		tcp, err = boundSocket(unix.SOCK_STREAM, way.port(at))
		return err
	})
	// A socket stays in the namespace that it was made in, so that the rest is done at home.
	packets, failed := packetsOf(udp)
	listener, unheard := listenerOf(tcp)
	if err = errors.Join(err, failed, unheard); err == nil {
		err = way.lead(n, at, portOf(packets.LocalAddr()), portOf(listener.Addr()))
	}
	if err == nil {
		return packets, listener, nil
	}
	if packets != nil {
		packets.Close()
	}
	if listener != nil {
		listener.Close()
	}
	return nil, nil, err
}

func portOf(a net.Addr) uint16 {
	at, _ := netip.ParseAddrPort(a.String())
	return at.Port()
}

// boundSocket is made by hand, for package net looks once in a process's life at what IPv6 can
// do, and must not look in a workload's namespace.
func boundSocket(kind int, at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if kind == unix.SOCK_STREAM {
		// Connections of an agent before this one may still be on their way out.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if kind == unix.SOCK_DGRAM {
		err = setReceiveQueue(fd, namesQueue)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	}
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, namesBacklog)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen at %s: %w", at, err), unix.Close(fd))
	}
	return fd, nil
}

// packetsOf takes fd, which may be none.
func packetsOf(fd int) (net.PacketConn, error) {
	if fd < 0 {
		return nil, nil
	}
	f := os.NewFile(uintptr(fd), "names by UDP")
	defer f.Close() // the connection has a duplicate
	return net.FilePacketConn(f)
}

func listenerOf(fd int) (net.Listener, error) {
	if fd < 0 {
		return nil, nil
	}
	f := os.NewFile(uintptr(fd), "names by TCP")
	defer f.Close()
	return net.FileListener(f)
}

// namesRefusal says what a person can do about what the kernel said.
func namesRefusal(sandbox string, at netip.AddrPort, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &Refusal{
			LoopbackDown, fmt.Sprintf("%s is no address in sandbox %s while lo is down there", at.Addr(), sandbox),
			"set lo up in the workload's namespace: ip -n NAME link set lo up",
		}
	default:
		return fmt.Errorf("serve names in sandbox %s: %w", sandbox, err)
	}
}
