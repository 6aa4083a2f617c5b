package dns

import (
	"container/list"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

const (
	tcpIdle    = 10 * time.Second // between two questions (RFC 7766 6.2.3: a few seconds)
	tcpMessage = 3 * time.Second  // from the first byte of a question to its last
	tcpWrite   = 3 * time.Second  // until an asker has read an answer
	// tcpQuestion is the longest message that we read. One question and its options are far
	// shorter; a connection may then cost no more than this.
	tcpQuestion = 4096
)

// conns are an asker's TCP connections, the longest idle first. There is always room for a
// newer one, at the cost of the longest idle: who opens thousands shuts out only itself.
type conns struct {
	mu    sync.Mutex
	idle  *list.List // of net.Conn
	limit int
}

func (c *conns) add(conn net.Conn) (at *list.Element, evicted net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle.Len() >= c.limit {
		evicted = c.idle.Remove(c.idle.Front()).(net.Conn)
	}
	return c.idle.PushBack(conn), evicted
}

func (c *conns) active(at *list.Element) {
	c.mu.Lock()
	c.idle.MoveToBack(at) // nothing, where it was evicted
	c.mu.Unlock()
}

func (c *conns) remove(at *list.Element) {
	c.mu.Lock()
	c.idle.Remove(at)
	c.mu.Unlock()
}

// serveConns answers by TCP, each connection in a goroutine of its own.
func (s *Server) serveConns(ctx context.Context, work *sync.WaitGroup, listener net.Listener) error {
	open := &conns{idle: list.New(), limit: s.limits.AskerConns}
	var failed failures
	for {
		conn, err := listener.Accept()
		if err != nil {
			if err := failed.after(ctx, err); err != nil {
				return err
			}
			continue
		}
		failed.none()
		at, evicted := open.add(conn)
		if evicted != nil {
			evicted.Close()
			s.resolver.count.evicted.Add(1)
		}
		work.Go(func() {
			defer open.remove(at)
			s.serveConn(ctx, conn, func() { open.active(at) })
		})
	}
}

// serveConn reads questions from one connection and answers them, in the order in which the
// answers are known (RFC 7766 7).
func (s *Server) serveConn(ctx context.Context, conn net.Conn, active func()) {
	unwatch := context.AfterFunc(ctx, func() { conn.Close() })
	defer unwatch()
	var asked sync.WaitGroup
	defer conn.Close()
	defer asked.Wait() // an asker may close its side after its last question
	var writing sync.Mutex
	send := func(wire []byte) {
		framed := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(wire)), uint16(len(wire))), wire...)
		writing.Lock()
		defer writing.Unlock()
		conn.SetWriteDeadline(time.Now().Add(tcpWrite)) //nolint:errcheck // then Write fails
		if _, err := conn.Write(framed); err != nil {
			conn.Close() // half an answer may be out: nothing after it can be read
		}
	}
	for {
		wire, err := readMessage(conn)
		if err != nil {
			return
		}
		active()
		s.handle(ctx, &asked, wire, unlimited, send)
	}
}

// readMessage waits for a message, long for its beginning and shortly for its end.
func readMessage(conn net.Conn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:1]); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(tcpMessage)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, length[1:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > tcpQuestion {
		return nil, io.ErrShortBuffer
	}
	wire := make([]byte, n)
	_, err := io.ReadFull(conn, wire)
	return wire, err
}
