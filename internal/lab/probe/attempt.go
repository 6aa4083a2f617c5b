package probe

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Question is what an Attempt says over UDP.
const Question = "x"

// Attempt is a question whose first packet is on its way, or waits for its next hop's hardware
// address: what is sent after it on the same way comes after it. It is for one goroutine.
type Attempt struct {
	proto string
	fd    int      // of a connection or association that is being opened
	conn  net.Conn // over UDP
	asked error    // why no packet was sent
}

// Begin sends the first packet and waits for nothing; proto is tcp, udp or sctp. A host that knows
// at once that it cannot send says so in Finish.
func (c Client) Begin(proto string, to netip.AddrPort) (*Attempt, error) {
	a := &Attempt{proto: proto, fd: -1}
	if proto == "udp" {
		if a.conn, a.asked = c.dial("udp", to); a.asked == nil {
			_, a.asked = a.conn.Write([]byte(Question))
		}
		return a, nil
	}
	err := c.Place.Do(func() error { return a.connect(c.Local, to) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin to ask %s: %w", to, err), a.Close())
	}
	return a, nil
}

// connect sends the first packet of a TCP connection or an SCTP association.
func (a *Attempt) connect(local, to netip.AddrPort) (err error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	proto := unix.IPPROTO_TCP
	if a.proto == "sctp" {
		proto = unix.IPPROTO_SCTP
	}
	if a.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto); err != nil {
		return err
	}
	if local.IsValid() {
		if err := unix.Bind(a.fd, sockaddr(local)); err != nil {
			return err
		}
	}
	if err := unix.Connect(a.fd, sockaddr(to)); !errors.Is(err, unix.EINPROGRESS) {
		a.asked = err
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// Finish waits for the answer.
func (a *Attempt) Finish(wait time.Duration) (Answer, error) {
	if a.asked != nil {
		return Answer{}, a.asked
	}
	if a.conn != nil {
		if err := a.conn.SetDeadline(time.Now().Add(wait)); err != nil {
			return Answer{}, err
		}
		return receive(a.conn)
	}
	if err := a.connected(wait); err != nil {
		return Answer{}, err
	}
	if err := a.conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return Answer{}, err
	}
	if a.proto == "sctp" {
		return receive(a.conn) // the server speaks first
	}
	text, err := exchange(a.conn, bufio.NewReader(a.conn), "GET", "/", nil)
	if err != nil {
		return Answer{}, err
	}
	return parse(text)
}

// Accepted says whether somebody has accepted the connection by now.
func (a *Attempt) Accepted() bool {
	if a.asked != nil || a.fd < 0 {
		return false
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}, 0)
	if err != nil || n == 0 {
		return false
	}
	_, err = unix.Getpeername(a.fd)
	return err == nil
}

// connected waits for the connection and makes it a.conn.
func (a *Attempt) connected(wait time.Duration) error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}, int(wait.Milliseconds()))
	if err != nil {
		return err
	}
	if n == 0 {
		return os.ErrDeadlineExceeded
	}
	code, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(a.fd), "attempt")
	a.fd = -1
	defer file.Close()
	a.conn, err = net.FileConn(file)
	return err
}

// Close ends it, also before its answer.
func (a *Attempt) Close() error {
	var errs []error
	if a.conn != nil {
		errs = append(errs, a.conn.Close())
	}
	if a.fd >= 0 {
		errs = append(errs, unix.Close(a.fd))
	}
	return errors.Join(errs...)
}

// Unanswered is an attempt that no answer can come back to.
func Unanswered() *Attempt { return &Attempt{fd: -1, asked: os.ErrDeadlineExceeded} }
