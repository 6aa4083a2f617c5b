package probe

import (
	"bufio"
	"net"
	"net/netip"
	"time"
)

// Here is the place of a process that is in its namespace already.
type Here struct{}

// Do runs f where the caller is.
func (Here) Do(f func() error) error { return f() }

// Conn is one flow, TCP or UDP, that may be asked on more than once. It is used
// by one goroutine at a time.
type Conn struct {
	conn   net.Conn
	reader *bufio.Reader // nil: UDP
	wait   time.Duration
}

// Open begins a flow: network is tcp or udp.
func (c Client) Open(network string, to netip.AddrPort) (*Conn, error) {
	conn, err := c.dial(network, to)
	if err != nil {
		return nil, err
	}
	flow := &Conn{conn: conn, wait: c.Wait}
	if network == "tcp" {
		flow.reader = bufio.NewReader(conn)
	}
	return flow, nil
}

// Ask asks who is there. After an error the flow is of no further use: a late
// answer would be taken for the next one.
func (c *Conn) Ask() (Answer, error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.wait)); err != nil {
		return Answer{}, err
	}
	if c.reader == nil {
		if _, err := c.conn.Write([]byte("x")); err != nil {
			return Answer{}, err
		}
		return receive(c.conn)
	}
	text, err := exchange(c.conn, c.reader, "GET", "/", nil)
	if err != nil {
		return Answer{}, err
	}
	return parse(text)
}

// Close ends the flow.
func (c *Conn) Close() error { return c.conn.Close() }
