package probe

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"

	"golang.org/x/sys/unix"
)

// Frame is an Ethernet frame as no honest host sends it: whatever the addresses are, it goes to
// the hardware address.
type Frame struct {
	Device string // it leaves here
	To     net.HardwareAddr
	Packet Packet
}

// Send sends the frame from a namespace; it is on the wire when Send returns.
func (f Frame) Send(from Place) error {
	out, err := hardwareAddr(from, f.Device)
	if err != nil {
		return err
	}
	return SendFrame(from, f.Device, f.Bytes(out))
}

func hardwareAddr(at Place, device string) (found net.HardwareAddr, err error) {
	err = at.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("send frame: %w", err)
		}
		found = dev.HardwareAddr
		return nil
	})
	return found, err
}

// Bytes is the frame as it is on the wire, from a hardware address.
func (f Frame) Bytes(from net.HardwareAddr) []byte {
	kind := uint16(unix.ETH_P_IP)
	if f.Packet.Dest.Addr().Is6() {
		kind = unix.ETH_P_IPV6
	}
	b := append(append([]byte(nil), f.To...), from...)
	return append(binary.BigEndian.AppendUint16(b, kind), f.Packet.bytes()...)
}

// bytes is the packet with its IP header.
func (p Packet) bytes() []byte {
	inner, proto := p.inner()
	source, dest := p.Source.Addr().AsSlice(), p.Dest.Addr().AsSlice()
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

// inner is what the IP header is before, with its checksum, and the number of its protocol.
func (p Packet) inner() (b []byte, proto byte) {
	const syn, rst, ack = 0x02, 0x04, 0x10
	switch p.Proto {
	case "sctp":
		return p.association(), unix.IPPROTO_SCTP
	case "tcp":
		return p.sum(p.segment(syn), unix.IPPROTO_TCP, 16), unix.IPPROTO_TCP
	case Reset:
		return p.sum(p.segment(rst), unix.IPPROTO_TCP, 16), unix.IPPROTO_TCP
	case Ack:
		return p.sum(p.segment(ack), unix.IPPROTO_TCP, 16), unix.IPPROTO_TCP
	default:
		return p.sum(p.datagram(), unix.IPPROTO_UDP, 6), unix.IPPROTO_UDP
	}
}

// sum puts the checksum, over the addresses too, where it belongs.
func (p Packet) sum(inner []byte, proto byte, at int) []byte {
	pseudo := append(append(append([]byte(nil), p.Source.Addr().AsSlice()...), p.Dest.Addr().AsSlice()...), 0, proto)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(inner)))
	binary.BigEndian.PutUint16(inner[at:], checksum(append(pseudo, inner...)))
	return inner
}

// chunkInit is the kind of chunk that begins an SCTP association.
const chunkInit = 1

// association is an SCTP packet that begins one, with one stream each way.
func (p Packet) association() []byte {
	b := append(p.ports(), 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, chunkInit, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (p Packet) ports() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.Source.Port()), p.Dest.Port())
}

// datagram is UDP without its checksum.
func (p Packet) datagram() []byte {
	b := binary.BigEndian.AppendUint16(p.ports(), uint16(8+len(p.Payload)))
	return append(append(b, 0, 0), p.Payload...)
}

// segment is an empty TCP segment without its checksum.
func (p Packet) segment(flags byte) []byte {
	return append(p.ports(), 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
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
