package probe

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GetFromOnePort opens one TCP connection to each address, all from c.Local and
// all open at once, and asks twice on each in turn. To an endpoint they would be
// one and the same flow if nothing told them apart.
func (c Client) GetFromOnePort(to []netip.AddrPort) ([]Answer, error) {
	type flow struct {
		conn net.Conn
		r    *bufio.Reader
	}
	var flows []flow
	defer func() {
		for _, f := range flows {
			f.conn.Close()
		}
	}()
	for _, a := range to {
		conn, err := c.dial("tcp", a)
		if err != nil {
			return nil, err
		}
		flows = append(flows, flow{conn, bufio.NewReader(conn)})
	}
	var answers []Answer
	for range 2 {
		for _, f := range flows {
			if err := f.conn.SetDeadline(time.Now().Add(c.Wait)); err != nil {
				return answers, err
			}
			text, err := exchange(f.conn, f.r, "GET", "/", nil)
			if err != nil {
				return answers, err
			}
			answer, err := parse(text)
			if err != nil {
				return answers, err
			}
			answers = append(answers, answer)
		}
	}
	return answers, nil
}

// AskFromOnePort sends one datagram to each address from one socket, then waits
// for as many answers, which must come from the addresses asked.
func (c Client) AskFromOnePort(to []netip.AddrPort) ([]Answer, error) {
	var conn *net.UDPConn
	err := c.Place.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(c.Local))
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	waiting := map[netip.AddrPort]bool{}
	for _, a := range to {
		waiting[a] = true
		if _, err := conn.WriteToUDPAddrPort([]byte("x"), a); err != nil {
			return nil, err
		}
	}
	if err := conn.SetDeadline(time.Now().Add(c.Wait)); err != nil {
		return nil, err
	}
	var answers []Answer
	buf := make([]byte, 2048)
	for len(waiting) > 0 {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return answers, err
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !waiting[from] {
			return answers, fmt.Errorf("answer from %s, which was not asked or answered twice", from)
		}
		delete(waiting, from)
		answer, err := parse(string(buf[:n]))
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}

// The sizes of packets, in bytes with their IP header: what a client's own link
// carries, and what fits a VXLAN tunnel (20 IP, 8 UDP, 8 VXLAN, 14 Ethernet) over it.
const (
	linkMTU    = 1500
	overlayMTU = linkMTU - 50
)

// PathMTU sends datagrams that no router may fragment: too large ones until the
// kernel has been told so, then one that fits, which must arrive whole.
func (c Client) PathMTU(to netip.AddrPort) (told bool, fits bool, err error) {
	header := 20 + 8
	if to.Addr().Is6() {
		header = 40 + 8
	}
	conn, err := c.dial("udp", to)
	if err != nil {
		return false, false, err
	}
	defer conn.Close()
	if err := dontFragment(conn, to.Addr()); err != nil {
		return false, false, err
	}
	for range 10 {
		_, err := conn.Write(make([]byte, linkMTU-header))
		if told = errors.Is(err, syscall.EMSGSIZE); told {
			break
		}
		if err != nil {
			return false, false, err
		}
		time.Sleep(100 * time.Millisecond) // for the ICMP message
	}
	// The ICMP message is noted on the socket too, for whatever is sent next.
	if _, err := option(conn, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return told, false, err
	}
	if _, err := conn.Write(make([]byte, overlayMTU-header)); err != nil {
		return told, false, err
	}
	if err := conn.SetDeadline(time.Now().Add(c.Wait)); err != nil {
		return told, false, err
	}
	answer, err := receive(conn)
	return told, answer.Length == overlayMTU-header, err
}

func dontFragment(conn net.Conn, to netip.Addr) error {
	level, name, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if to.Is6() {
		level, name, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	return onSocket(conn, func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) })
}

// option reads a socket option.
func option(conn net.Conn, level, name int) (value int, err error) {
	err = onSocket(conn, func(fd int) (err error) {
		value, err = unix.GetsockoptInt(fd, level, name)
		return err
	})
	return value, err
}

func onSocket(conn net.Conn, f func(fd int) error) error {
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}
