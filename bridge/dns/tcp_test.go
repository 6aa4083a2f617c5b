package dns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func framed(tb testing.TB, messages ...*dns.Msg) []byte {
	tb.Helper()
	var out []byte
	for _, m := range messages {
		wire, err := m.Pack()
		if err != nil {
			tb.Fatal(err)
		}
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(wire))), wire...)
	}
	return out
}

func readFramed(tb testing.TB, conn net.Conn) *dns.Msg {
	tb.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	m, err := (&dns.Conn{Conn: conn}).ReadMsg()
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func dialTCP(tb testing.TB, addr string) net.Conn {
	tb.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

// Many questions in one segment: the local ones are answered while one to the world waits.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		<-release
		return give(q, "192.0.2.1", 60)
	})
	s := serve(t, resolver(t, ForwarderConfig{}, up.addr), here())
	conn := dialTCP(t, s.addr)
	slow := ask("example.org", dns.TypeA)
	messages := []*dns.Msg{slow}
	for range 100 {
		messages = append(messages, ask("db", dns.TypeA))
	}
	if _, err := conn.Write(framed(t, messages...)); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite() // what was asked is answered all the same
	for _, m := range messages[1:] {
		if got := readFramed(t, conn); got.Id != m.Id || len(got.Answer) != 2 {
			t.Fatalf("%v", got)
		}
	}
	close(release)
	if got := readFramed(t, conn); got.Id != slow.Id || address(got) != "192.0.2.1" {
		t.Fatalf("%v", got)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
}

// A question in many pieces is one; what is too long or cut off ends its connection alone.
func TestHalfMessages(t *testing.T) {
	r := resolver(t, ForwarderConfig{})
	s := serve(t, r, here())
	whole := framed(t, ask("db", dns.TypeA))
	conn := dialTCP(t, s.addr)
	for i := range whole {
		if _, err := conn.Write(whole[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := readFramed(t, conn); len(got.Answer) != 2 {
		t.Errorf("%v", got)
	}
	for cut := range len(whole) {
		conn := dialTCP(t, s.addr)
		conn.Write(whole[:cut])
		if cut%2 == 0 {
			conn.(*net.TCPConn).SetLinger(0) // a reset
		}
		conn.Close()
	}
	long := dialTCP(t, s.addr)
	long.Write([]byte{0xff, 0xff})
	long.SetReadDeadline(time.Now().Add(tcpMessage / 2))
	if _, err := long.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a length of 65,535 is waited for: %v", err)
	}
	if got := exchange(t, "tcp", s.addr, ask("db", dns.TypeA)); len(got.Answer) != 2 {
		t.Errorf("%v", got)
	}
	before := cpu(t)
	time.Sleep(200 * time.Millisecond)
	if used := cpu(t) - before; used > 100*time.Millisecond {
		t.Errorf("%v of CPU for nothing", used)
	}
	if c := r.Counts(); c.Panics != 0 || c.Queries != 2 {
		t.Errorf("counts: %+v", c)
	}
}

// pipes is a listener whose connections are net.Pipes, so that time can be virtual.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Idle connections end after a while, half-sent messages sooner however slowly they go on, and
// a client that does not read its answers too.
func TestTimeouts(t *testing.T) {
	whole := framed(t, ask("db", dns.TypeA))
	for _, tt := range []struct {
		why  string
		do   func(net.Conn)
		ends time.Duration
	}{
		{"silence", func(net.Conn) {}, tcpIdle},
		{"half a length", func(c net.Conn) { c.Write(whole[:1]) }, tcpMessage},
		{"one byte a second", func(c net.Conn) {
			for i := range whole {
				if _, err := c.Write(whole[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, tcpMessage},
		{"nothing read", func(c net.Conn) { c.Write(whole) }, tcpWrite},
		{"a question every 9 s", func(c net.Conn) {
			for range 3 {
				c.Write(whole)
				readFramed(t, c)
				time.Sleep(9 * time.Second)
			}
		}, 18*time.Second + tcpIdle},
	} {
		t.Run(tt.why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := NewForwarder(ForwarderConfig{})
				defer f.Close()
				r := NewResolver(f)
				r.SetZone(NewZone(town()))
				listener := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
				done := make(chan error)
				go func() { done <- NewServer(r, here()).Serve(t.Context(), nil, listener) }()
				client, server := net.Pipe()
				watched := &watched{Conn: server, closed: make(chan time.Time, 10)}
				began := time.Now()
				listener.conns <- watched
				tt.do(client)
				if got := (<-watched.closed).Sub(began); got != tt.ends {
					t.Errorf("ended after %v, want %v", got, tt.ends)
				}
				client.Close()
				listener.Close()
				if err := <-done; err == nil {
					t.Error("a listener that is gone is no error")
				}
			})
		})
	}
}

type watched struct {
	net.Conn
	closed chan time.Time
}

func (w *watched) Close() error {
	select {
	case w.closed <- time.Now():
	default:
	}
	return w.Conn.Close()
}

// Thousands of idle connections of one asker leave its own newest and every other asker served
// as before, and cost what a hundred cost.
func TestIdleConnections(t *testing.T) {
	const crowd = 9000 // two descriptors each, of the 20,000 that this process may have
	r := resolver(t, ForwarderConfig{})
	bad, good := serve(t, r, here()), serve(t, r, here())
	quiet := p99(t, good.addr)
	before := memory()
	conns := make([]net.Conn, 0, crowd)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range crowd {
		c, err := net.Dial("tcp", bad.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		if len(conns)%2 == 0 {
			c.Write([]byte{0, 99, 1}) // half-sent
		}
	}
	if got := exchange(t, "tcp", bad.addr, ask("db", dns.TypeA)); len(got.Answer) != 2 {
		t.Errorf("%v", got)
	}
	if grown := memory() - before; grown > 32<<20 {
		t.Errorf("%d MB for %d connections", grown>>20, crowd)
	}
	c := r.Counts()
	if c.Evicted < crowd-200 {
		t.Errorf("%d of %d were evicted", c.Evicted, crowd)
	}
	loud := p99(t, good.addr)
	for try := 0; loud > 3*quiet+slack && try < 5; try++ { // others use this machine too
		loud = min(loud, p99(t, good.addr))
	}
	t.Logf("p99 of another asker: %v, %v without them", loud, quiet)
	if loud > 3*quiet+slack {
		t.Errorf("p99 of another asker: %v, %v without them", loud, quiet)
	}
}

// A newer connection takes the place of the longest idle, which is not the oldest.
func TestEviction(t *testing.T) {
	r := resolver(t, ForwarderConfig{Limits: Limits{AskerConns: 3}})
	s := serve(t, r, here())
	whole := framed(t, ask("db", dns.TypeA))
	works := func(conn net.Conn) bool {
		if _, err := conn.Write(whole); err != nil {
			return false
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := (&dns.Conn{Conn: conn}).ReadMsg()
		return err == nil
	}
	var conns []net.Conn
	for range 3 {
		conns = append(conns, dialTCP(t, s.addr))
		if !works(conns[len(conns)-1]) {
			t.Fatal("a new connection does not work")
		}
	}
	if !works(conns[0]) || !works(dialTCP(t, s.addr)) {
		t.Fatal("one of them does not work")
	}
	if !works(conns[0]) || works(conns[1]) || !works(conns[2]) {
		t.Error("the wrong one was closed")
	}
	if c := r.Counts(); c.Evicted != 1 {
		t.Errorf("counts: %+v", c)
	}
}

// memory is the live heap and all stacks, in bytes. The test's own sockets are in it.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// slack is what a machine that others use adds to an answer; one that waits for a forward takes
// longer than the 150 ms after which the next upstream is asked.
const slack = 20 * time.Millisecond

// p99 is what 500 local questions by UDP take, but the slowest five.
func p99(tb testing.TB, addr string) time.Duration {
	tb.Helper()
	conn, err := net.Dial("udp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	wire, err := ask("db", dns.TypeA).Pack()
	if err != nil {
		tb.Fatal(err)
	}
	buf := make([]byte, 4096)
	var took []time.Duration
	for range 500 {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		began := time.Now()
		if _, err := conn.Write(wire); err != nil {
			tb.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			tb.Fatal(err)
		}
		if !bytes.Equal(buf[:2], wire[:2]) || n < 40 {
			tb.Fatalf("%x", buf[:n])
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[494]
}
