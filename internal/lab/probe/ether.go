package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Ether is a frame to all on a link, of a kind as the kernel's ETH_P_ constants name it.
func Ether(from net.HardwareAddr, kind uint16, body ...[]byte) []byte {
	head := append(bytes.Repeat([]byte{0xff}, 6), from...)
	return append(binary.BigEndian.AppendUint16(head, kind), bytes.Join(body, nil)...)
}

// ARP is a reply of RFC 826 in a frame to all: the address is at the hardware address said.
func ARP(from, said net.HardwareAddr, addr netip.Addr) []byte {
	return Ether(from, unix.ETH_P_ARP, []byte{0, 1, 8, 0, 6, 4, 0, 2}, said, addr.AsSlice(), make([]byte, 10))
}

// Broadcast is an IPv4 packet to all in a frame to all.
func Broadcast(from net.HardwareAddr, addr netip.Addr) []byte {
	head := slices.Concat([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, addr.AsSlice(), []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(head[10:], checksum(head))
	return Ether(from, unix.ETH_P_IP, head, make([]byte, 8))
}

// Discovery is a message of RFC 4861 in a frame to all, of an ICMPv6 type. Its checksum is zero.
func Discovery(from net.HardwareAddr, addr netip.Addr, kind byte, target netip.Addr) []byte {
	const hops = 255
	all := netip.MustParseAddr("ff02::1")
	head := []byte{0x60, 0, 0, 0, 0, 24, unix.IPPROTO_ICMPV6, hops}
	return Ether(from, unix.ETH_P_IPV6, head, addr.AsSlice(), all.AsSlice(), []byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice())
}

// SendFrame sends a frame as it is; it is on the wire when SendFrame returns.
func SendFrame(from Place, device string, frame []byte) error {
	return from.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		defer unix.Close(fd)
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		return nil
	})
}

// Listener takes the frames that come to a namespace, whole. It may be used by several goroutines.
type Listener struct {
	mu    sync.Mutex
	fd    int
	heard []byte
}

// ListenFrames begins to listen for frames; the caller closes it.
func ListenFrames(at Place) (*Listener, error) {
	l := &Listener{fd: -1}
	err := at.Do(func() (err error) {
		l.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ALL)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen for frames: %w", err)
	}
	return l, nil
}

// Heard tells whether something was in a frame that came since the last Forget.
func (l *Listener) Heard(something []byte) bool { return l.Count(something) > 0 }

// Count is how often something was in frames that came since the last Forget.
func (l *Listener) Count(something []byte) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read()
	return bytes.Count(l.heard, something)
}

// Forget drops what came.
func (l *Listener) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read()
	l.heard = nil
}

// Close ends it.
func (l *Listener) Close() error { return unix.Close(l.fd) }

func (l *Listener) read() {
	frame := make([]byte, 1<<11)
	for {
		n, from, err := unix.Recvfrom(l.fd, frame, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // nothing more is there
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_OUTGOING {
			l.heard = append(l.heard, frame[:n]...)
		}
	}
}
