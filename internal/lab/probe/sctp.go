package probe

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// SCTPServer answers every association as Server does, and closes it. Package net knows no
// SCTP: its sockets are the kernel's, one association each, as with TCP.
type SCTPServer struct {
	listeners []unix.PollFd
	name      string
	stop      chan struct{}
	done      chan struct{}
}

// ServeSCTP listens on ports of both families until Close.
func ServeSCTP(at Place, name string, ports ...uint16) (*SCTPServer, error) {
	s := &SCTPServer{name: name, stop: make(chan struct{}), done: make(chan struct{})}
	for _, port := range ports {
		if err := at.Do(func() error { return s.listen(port) }); err != nil {
			return nil, errors.Join(fmt.Errorf("listen on sctp/%d: %w", port, err), s.closed())
		}
	}
	go s.answer()
	return s, nil
}

func (s *SCTPServer) listen(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	s.listeners = append(s.listeners, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	return errors.Join(unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}), unix.Listen(fd, 16))
}

// Close ends the server and waits for it.
func (s *SCTPServer) Close() error {
	close(s.stop)
	<-s.done
	return s.closed()
}

func (s *SCTPServer) closed() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, unix.Close(int(l.Fd)))
	}
	return errors.Join(errs...)
}

func (s *SCTPServer) answer() {
	defer close(s.done)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		const moment = 100 // milliseconds: nothing wakes a goroutine that waits in accept for SCTP
		if n, err := unix.Poll(s.listeners, moment); err != nil || n == 0 {
			continue
		}
		for _, l := range s.listeners {
			if l.Revents&unix.POLLIN != 0 {
				s.serve(int(l.Fd))
			}
		}
	}
}

// serve answers who waits to be accepted.
func (s *SCTPServer) serve(listener int) {
	fd, from, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return // it went away again
	}
	// An answer that does not arrive is seen by who waits for it.
	_, _ = unix.Write(fd, []byte(s.name+" sees "+addrPortOf(from).String()))
	_ = unix.Close(fd)
}

// AskSCTP opens an association, as Get opens a connection.
func (c Client) AskSCTP(to netip.AddrPort) (Answer, error) {
	a, err := c.Begin("sctp", to)
	if err != nil {
		return Answer{}, err
	}
	defer a.Close()
	return a.Finish(c.Wait)
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
