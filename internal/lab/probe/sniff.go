package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is a datagram, the first packet of a TCP connection or an SCTP association, or one that
// ends a connection.
type Packet struct {
	Proto        string // udp, tcp, sctp, Reset, or Ack
	Source, Dest netip.AddrPort
	Payload      string
}

// Reset is the protocol of a TCP segment that ends a connection, and acknowledges nothing.
const Reset = "tcp reset"

// Ack is the protocol of a TCP segment that begins and ends nothing: the middle of a connection.
const Ack = "tcp ack"

// Sniffer notes the packets that come to a namespace, before any rule there is asked. Its
// methods may be called by several goroutines.
type Sniffer struct {
	file *os.File
	done chan struct{}

	mu      sync.Mutex
	packets []Packet
}

// Sniff begins to note; the caller closes it.
func Sniff(at Place) (*Sniffer, error) {
	s := &Sniffer{done: make(chan struct{})}
	err := at.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(bigEndian(unix.ETH_P_ALL)))
		if err == nil {
			s.file = os.NewFile(uintptr(fd), "sniffer")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sniff: %w", err)
	}
	go s.run()
	return s, nil
}

// Close ends it.
func (s *Sniffer) Close() error {
	err := s.file.Close()
	<-s.done
	return err
}

// Forget drops what was noted.
func (s *Sniffer) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = nil
}

// Find is the first noted packet that is wanted.
func (s *Sniffer) Find(wanted func(Packet) bool) (Packet, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.packets {
		if wanted(p) {
			return p, true
		}
	}
	return Packet{}, false
}

// Await is Find for a packet that comes within the limit.
func (s *Sniffer) Await(limit time.Duration, wanted func(Packet) bool) (Packet, bool) {
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if p, ok := s.Find(wanted); ok || time.Since(began) > limit {
			return p, ok
		}
	}
}

func (s *Sniffer) run() {
	defer close(s.done)
	raw, err := s.file.SyscallConn()
	if err != nil {
		return // closed already
	}
	buf := make([]byte, 1<<16)
	for {
		var n int
		var from unix.Sockaddr
		var inner error
		err := raw.Read(func(fd uintptr) bool {
			n, from, inner = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(inner, syscall.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if link, ok := from.(*unix.SockaddrLinklayer); inner == nil && ok && link.Pkttype != unix.PACKET_OUTGOING {
			s.note(buf[:n])
		}
	}
}

// note keeps the newest packets only: who asks forgets the old ones.
func (s *Sniffer) note(b []byte) {
	p, ok := parsePacket(b)
	if !ok {
		return
	}
	const most = 4096
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packets = append(s.packets[max(0, len(s.packets)-most):], p)
}

// parsePacket reads an IP packet; not ok for one that is no Packet.
func parsePacket(b []byte) (p Packet, ok bool) {
	var source, dest netip.Addr
	var proto byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		source, dest, proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
		b = b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		source, dest, proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
		b = b[40:]
	default:
		return p, false
	}
	const syn, rst, ack, synAck, rstSynAck = 0x02, 0x04, 0x10, 0x12, 0x16
	const chunk = 12 // where the first one begins
	switch {
	case proto == unix.IPPROTO_SCTP && len(b) > chunk && b[chunk] == chunkInit:
		p.Proto = "sctp"
	case proto == unix.IPPROTO_UDP && len(b) >= 8:
		p.Proto, p.Payload = "udp", string(b[8:])
	case proto == unix.IPPROTO_TCP && len(b) >= 20 && b[13]&synAck == syn:
		p.Proto = "tcp"
	case proto == unix.IPPROTO_TCP && len(b) >= 20 && b[13]&rstSynAck == rst:
		p.Proto = Reset
	case proto == unix.IPPROTO_TCP && len(b) >= 20 && b[13]&rstSynAck == ack:
		p.Proto = Ack
	default:
		return p, false
	}
	p.Source = netip.AddrPortFrom(source, binary.BigEndian.Uint16(b))
	p.Dest = netip.AddrPortFrom(dest, binary.BigEndian.Uint16(b[2:]))
	return p, true
}

func bigEndian(n uint16) uint16 { return n<<8 | n>>8 }
