package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Place is where a client's sockets are: space.Space, usually.
type Place interface {
	Do(f func() error) error
}

// Client asks from one place. It may be used by several goroutines.
type Client struct {
	Place Place
	Local netip.AddrPort // invalid: the kernel chooses
	Wait  time.Duration  // for one answer
}

// Answer is who answered and whom it saw.
type Answer struct {
	Name   string
	Source netip.AddrPort
	Length int // of the datagram, UDP only
}

// Outcome is how a request ended, in one word that does not change from run to run.
func Outcome(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "answered"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return "unreachable"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	default:
		return err.Error()
	}
}

// Get asks over TCP on a connection of its own.
func (c Client) Get(to netip.AddrPort) (Answer, error) {
	text, err := c.fetch(to, "GET", "/", nil)
	if err != nil {
		return Answer{}, err
	}
	return parse(text)
}

// Heard are the datagrams that came to the server's HiddenPort.
func (c Client) Heard(to netip.AddrPort) ([]string, error) {
	text, err := c.fetch(to, "GET", "/heard", nil)
	return strings.Fields(text), err
}

// Download reads /big and returns how many bytes came.
func (c Client) Download(to netip.AddrPort) (int, error) {
	text, err := c.fetch(to, "GET", "/big", nil)
	return len(text), err
}

// Upload sends n bytes and returns how many the server counted.
func (c Client) Upload(to netip.AddrPort, n int64) (int, error) {
	text, err := c.fetch(to, "POST", "/count", io.LimitReader(zeros{}, n))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(text))
}

func (c Client) fetch(to netip.AddrPort, method, path string, body io.Reader) (string, error) {
	conn, err := c.dial("tcp", to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return exchange(conn, bufio.NewReader(conn), method, path, body)
}

// exchange is one request on an open connection: http.Transport would dial on a
// goroutine of its own, which is in no namespace of ours.
func exchange(conn net.Conn, r *bufio.Reader, method, path string, body io.Reader) (string, error) {
	req, err := http.NewRequest(method, "http://lab"+path, body)
	if err != nil {
		return "", err
	}
	if err := req.Write(conn); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	return string(text), err
}

// Ask asks over UDP with a datagram of length bytes.
func (c Client) Ask(to netip.AddrPort, length int) (Answer, error) {
	conn, err := c.dial("udp", to)
	if err != nil {
		return Answer{}, err
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, length)); err != nil {
		return Answer{}, err
	}
	return receive(conn)
}

// Tell sends one datagram and waits for nothing.
func (c Client) Tell(to netip.AddrPort, text string) error {
	conn, err := c.dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, text)
	return err
}

func receive(conn net.Conn) (Answer, error) {
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if err != nil {
		return Answer{}, err
	}
	return parse(string(buf[:n]))
}

// dial opens a connected socket at the client's place; its deadline is c.Wait
// from now for one answer, and more for a long one.
func (c Client) dial(network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: c.Wait, Control: reuse, KeepAlive: -1}
	if c.Local.IsValid() {
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(c.Local)
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(c.Local)
		}
	}
	var conn net.Conn
	err := c.Place.Do(func() (err error) {
		conn, err = d.Dial(network, to.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	wait := c.Wait
	if network == "tcp" {
		wait *= 10 // the handshake is over: what follows may be 5 MB on a slow machine
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// reuse lets several sockets of one client port go to different nodes.
func reuse(_, _ string, raw syscall.RawConn) error {
	var inner error
	err := raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, inner)
}

func parse(text string) (Answer, error) {
	fields := strings.Fields(text)
	if len(fields) < 3 || fields[1] != "sees" {
		return Answer{}, fmt.Errorf("answer %q is not of the form NAME sees ADDR:PORT", text)
	}
	source, err := netip.ParseAddrPort(fields[2])
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", text, err)
	}
	a := Answer{Name: fields[0], Source: netip.AddrPortFrom(source.Addr().Unmap(), source.Port())}
	if len(fields) == 5 {
		if a.Length, err = strconv.Atoi(fields[4]); err != nil {
			return Answer{}, fmt.Errorf("answer %q: %w", text, err)
		}
	}
	return a, nil
}
