package probe

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"time"
)

// Flow is an open TCP connection, or a UDP socket with one client port, that asks
// again and again. It is for one goroutine.
type Flow struct {
	conn net.Conn
	r    *bufio.Reader // nil over UDP
	Wait time.Duration // for one answer; may be changed between two requests
}

// Open opens a flow; proto is tcp or udp.
func (c Client) Open(proto string, to netip.AddrPort) (*Flow, error) {
	conn, err := c.dial(proto, to)
	if err != nil {
		return nil, err
	}
	f := &Flow{conn: conn, Wait: c.Wait}
	if proto == "tcp" {
		f.r = bufio.NewReader(conn)
	}
	return f, nil
}

// Ask sends one request and waits for its answer.
func (f *Flow) Ask() (Answer, error) {
	if err := f.conn.SetDeadline(time.Now().Add(f.Wait)); err != nil {
		return Answer{}, err
	}
	if f.r == nil {
		if _, err := f.conn.Write([]byte("x")); err != nil {
			return Answer{}, err
		}
		return receive(f.conn)
	}
	text, err := exchange(f.conn, f.r, "GET", "/", nil)
	if err != nil {
		return Answer{}, err
	}
	return parse(text)
}

// Tell sends a text in one datagram and waits for nothing.
func (f *Flow) Tell(text string) error {
	_, err := io.WriteString(f.conn, text)
	return err
}

// Close ends the flow.
func (f *Flow) Close() error { return f.conn.Close() }
