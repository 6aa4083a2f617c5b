package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SCTPServer answers every association as Server does, and closes it. Package net knows no
// SCTP: its sockets are the kernel's, one association each, as with TCP.
type SCTPServer struct {
	fd   int
	name string
	stop chan struct{}
	done chan struct{}
}

// ServeSCTP listens on a port of both families until Close.
func ServeSCTP(at Place, name string, port uint16) (*SCTPServer, error) {
	s := &SCTPServer{name: name, stop: make(chan struct{}), done: make(chan struct{})}
	err := at.Do(func() (err error) {
		if s.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP); err != nil {
			return err
		}
		return errors.Join(unix.Bind(s.fd, &unix.SockaddrInet6{Port: int(port)}), unix.Listen(s.fd, 16))
	})
	if err != nil {
		return nil, fmt.Errorf("listen on sctp/%d: %w", port, err)
	}
	go s.answer()
	return s, nil
}

// Close ends the server and waits for it.
func (s *SCTPServer) Close() error {
	close(s.stop)
	<-s.done
	return unix.Close(s.fd)
}

// waiting is whether somebody waits to be accepted, asked for a moment at most: nothing
// wakes a goroutine that waits in accept for SCTP.
func (s *SCTPServer) waiting() bool {
	const moment = 100 // milliseconds
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, moment)
	return err == nil && n > 0
}

func (s *SCTPServer) answer() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		if !s.waiting() {
			continue
		}
		fd, from, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		if err != nil {
			continue // it went away again
		}
		// An answer that does not arrive is seen by who waits for it.
		_, _ = unix.Write(fd, []byte(s.name+" sees "+addrPortOf(from).String()))
		_ = unix.Close(fd)
	}
}

// AskSCTP opens an association, as Get opens a connection.
func (c Client) AskSCTP(to netip.AddrPort) (Answer, error) {
	var text string
	err := c.Place.Do(func() (err error) {
		text, err = askSCTP(to, c.Wait)
		return err
	})
	if err != nil {
		return Answer{}, err
	}
	return parse(text)
}

func askSCTP(to netip.AddrPort, wait time.Duration) (string, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(wait.Nanoseconds())
	for _, option := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			return "", err
		}
	}
	if err := unix.Connect(fd, sockaddrOf(to)); err != nil {
		return "", late(err)
	}
	buf := make([]byte, 256)
	n, err := unix.Read(fd, buf)
	return string(buf[:max(n, 0)]), late(err)
}

// late gives the errors of a socket's own time limits the name that Outcome knows.
func late(err error) error {
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINPROGRESS) {
		return os.ErrDeadlineExceeded
	}
	return err
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPortOf(s unix.Sockaddr) netip.AddrPort {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	default:
		return netip.AddrPort{}
	}
}
