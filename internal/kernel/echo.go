package kernel

import (
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Echoer asks other nodes' network sandboxes whether they are there, by ICMP echo
// out of ingress-sbox: the way that a client's packets take, answered by their kernel
// whether an agent runs there or not. For one goroutine at a time, and beside Apply.
type Echoer interface {
	// Send asks the sandbox that has the IPv4 address. It does not wait. An error means
	// that nothing can be asked from here, and says nothing about the other node.
	Send(to netip.Addr, sequence uint16) error
	// Receive gives each answer that has come by now; it does not wait.
	Receive(each func(from netip.Addr, sequence uint16)) error
	// Close gives the socket back; it is opened again by the next Send.
	Close() error
}

// Echo makes an Echoer. Its socket is opened at the first Send, and anew whenever
// ingress-sbox is another namespace than before.
func (k *Kernel) Echo() Echoer { return newEcho(k.Path(plan.IngressSandbox)) }

// echo is one raw socket. The source of what it sends is ingress-sbox's address on
// the uplink: only from there, and only by the tunnel, does an answer come.
type echo struct {
	path   string // of ingress-sbox
	source netip.Addr
	ours   [echoOurs]byte // identifier and cookie: an answer carries both
	fd     int            // -1 while closed
	id     nsID           // of the namespace that fd is in
	buffer [echoRoom]byte
}

const (
	icmpEchoReply   = 0
	icmpEchoRequest = 8
	icmpHeader      = 8
	icmpFilter      = 1 // ICMP_FILTER, include/uapi/linux/icmp.h
	echoCookie      = 8
	echoOurs        = 2 + echoCookie
	echoLength      = icmpHeader + echoCookie
	echoRoom        = 256  // bytes of one receive: what is longer is no answer to us
	echoBurst       = 4096 // receives at a time, so that a flood does not hold the caller
)

func newEcho(path string) *echo {
	e := &echo{path: path, source: plan.Uplink4(plan.UplinkSandboxNumber).Addr(), fd: -1}
	binary.BigEndian.PutUint16(e.ours[:2], uint16(rand.Uint32()))
	_, _ = crand.Read(e.ours[2:]) // it never fails
	return e
}

// Send implements Echoer.
func (e *echo) Send(to netip.Addr, sequence uint16) error {
	if !to.Is4() {
		return fmt.Errorf("ask %s: not an IPv4 address", to)
	}
	if err := e.open(); err != nil {
		return err
	}
	message := e.request(sequence)
	if err := unix.Sendto(e.fd, message[:], unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return fmt.Errorf("ask %s: %w", to, err)
	}
	return nil
}

func (e *echo) request(sequence uint16) (message [echoLength]byte) {
	message[0] = icmpEchoRequest
	copy(message[4:6], e.ours[:2])
	binary.BigEndian.PutUint16(message[6:8], sequence)
	copy(message[icmpHeader:], e.ours[2:])
	binary.BigEndian.PutUint16(message[2:4], checksum(message[:]))
	return message
}

// Receive implements Echoer.
func (e *echo) Receive(each func(from netip.Addr, sequence uint16)) error {
	if e.fd < 0 {
		return nil
	}
	for range echoBurst {
		n, _, err := unix.Recvfrom(e.fd, e.buffer[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return errors.Join(fmt.Errorf("receive answers in %s: %w", plan.IngressSandbox, err), e.Close())
		}
		if from, sequence, ok := e.answer(e.buffer[:n]); ok {
			each(from, sequence)
		}
	}
	return nil
}

// answer reads an IPv4 packet, and takes it only if it answers a request of this
// very socket: everything that comes to the namespace comes here too.
func (e *echo) answer(packet []byte) (from netip.Addr, sequence uint16, ok bool) {
	const shortest = 20
	if len(packet) < shortest || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_ICMP {
		return from, 0, false
	}
	header := int(packet[0]&0xf) * 4
	if header < shortest || len(packet) != header+echoLength {
		return from, 0, false
	}
	message := packet[header:]
	if message[0] != icmpEchoReply || message[1] != 0 || checksum(message) != 0 ||
		[2]byte(message[4:6]) != [2]byte(e.ours[:2]) || [echoCookie]byte(message[icmpHeader:]) != [echoCookie]byte(e.ours[2:]) {
		return from, 0, false
	}
	return netip.AddrFrom4([4]byte(packet[12:16])), binary.BigEndian.Uint16(message[6:8]), true
}

// open opens the socket where there is none, or where the sandbox has become another
// namespace. While it is not mounted nothing is asked, and nothing keeps it alive.
func (e *echo) open() error {
	fd, id, err := openFile(e.path)
	if err != nil {
		return errors.Join(fmt.Errorf("look at %s: %w", plan.IngressSandbox, err), e.Close())
	}
	defer fd.Close()
	if e.fd >= 0 && e.id == id {
		return nil
	}
	if err := e.Close(); err != nil {
		return err
	}
	if e.fd, err = e.socket(fd); err != nil {
		return fmt.Errorf("open ICMP socket in %s: %w", plan.IngressSandbox, err)
	}
	e.id = id
	return nil
}

// socket opens the socket in a namespace; -1 with an error.
func (e *echo) socket(where netns.NsHandle) (int, error) {
	fd := -1
	err := within(where, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
		return err
	})
	if err != nil {
		return -1, err
	}
	const answersOnly = ^uint32(1 << icmpEchoReply)                          // a bit that is set keeps a type out
	err = unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, int(answersOnly)) // the kernel takes the low 32 bits
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: e.source.As4()})
	}
	if err != nil {
		closeFile(fd)
		return -1, err
	}
	return fd, nil
}

// Close implements Echoer.
func (e *echo) Close() error {
	fd := e.fd
	e.fd = -1
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes; 0 for a
// message that holds its own.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
