package probe

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Frame is an Ethernet frame as no honest host sends it: whatever the addresses are, it goes to
// the hardware address.
type Frame struct {
	Device string // it leaves here
	To     net.HardwareAddr
	Packet Packet // over TCP the first of a connection
}

// Send sends the frame from a namespace; it is on the wire when Send returns.
func (f Frame) Send(from Place) error {
	return from.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		defer unix.Close(fd)
		dev, err := net.InterfaceByName(f.Device)
		if err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		if err := unix.Sendto(fd, f.bytes(dev.HardwareAddr), 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		return nil
	})
}

func (f Frame) bytes(from net.HardwareAddr) []byte {
	kind := uint16(unix.ETH_P_IP)
	if f.Packet.Dest.Addr().Is6() {
		kind = unix.ETH_P_IPV6
	}
	b := append(append([]byte(nil), f.To...), from...)
	return append(binary.BigEndian.AppendUint16(b, kind), f.Packet.bytes()...)
}

// bytes is the packet with its IP header.
func (p Packet) bytes() []byte {
	inner, proto := p.datagram(), byte(unix.IPPROTO_UDP)
	at := 6 // where the checksum is
	if p.Proto == "tcp" {
		inner, proto, at = p.first(), unix.IPPROTO_TCP, 16
	}
	source, dest := p.Source.Addr().AsSlice(), p.Dest.Addr().AsSlice()
	pseudo := append(append(append([]byte(nil), source...), dest...), 0, proto)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(inner)))
	binary.BigEndian.PutUint16(inner[at:], checksum(append(pseudo, inner...)))
	const hops = 64
	var head []byte
	if p.Dest.Addr().Is4() {
		head = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, hops, proto, 0, 0}
		head = append(append(head, source...), dest...)
		binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(inner)))
		binary.BigEndian.PutUint16(head[10:], checksum(head))
	} else {
		head = []byte{0x60, 0, 0, 0, 0, 0, proto, hops}
		head = append(append(head, source...), dest...)
		binary.BigEndian.PutUint16(head[4:], uint16(len(inner)))
	}
	return append(head, inner...)
}

func (p Packet) ports() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.Source.Port()), p.Dest.Port())
}

// datagram is UDP without its checksum.
func (p Packet) datagram() []byte {
	b := binary.BigEndian.AppendUint16(p.ports(), uint16(8+len(p.Payload)))
	return append(append(b, 0, 0), p.Payload...)
}

// first is the first packet of a TCP connection without its checksum.
func (p Packet) first() []byte {
	const syn = 0x02
	return append(p.ports(), 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, syn, 0xff, 0xff, 0, 0, 0, 0)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
