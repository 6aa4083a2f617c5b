package sim

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

func at(n int) netip.AddrPort { return netip.AddrPortFrom(addr(n), 7956) }

// pair is a network of two hosts, a socket on each.
func pair(t *testing.T, seed uint64) (*Network, [2]net.PacketConn, [2]net.Listener) {
	t.Helper()
	n := NewNetwork(seed)
	var packets [2]net.PacketConn
	var listeners [2]net.Listener
	for i := range packets {
		var err error
		if packets[i], err = n.Host(addr(i)).ListenPacket(at(i)); err != nil {
			t.Fatal(err)
		}
		if listeners[i], err = n.Host(addr(i)).Listen(at(i)); err != nil {
			t.Fatal(err)
		}
	}
	return n, packets, listeners
}

func shut(packets [2]net.PacketConn, listeners [2]net.Listener) {
	for i := range packets {
		packets[i].Close()
		listeners[i].Close()
	}
	time.Sleep(time.Minute)
}

// received counts the datagrams of a socket until it is closed, and what they say.
func received(c net.PacketConn) func() string {
	var all strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			all.Write(b[:n])
		}
	}()
	return func() string { c.Close(); <-done; return all.String() }
}

func TestDatagrams(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Network)
		least int
		most  int
	}{
		"good":   {func(*Network) {}, 1000, 1000},
		"loss":   {func(n *Network) { n.SetWeather(Weather{Loss: 0.2}) }, 750, 850},
		"double": {func(n *Network) { n.SetWeather(Weather{Duplicate: 0.1}) }, 1050, 1150},
		"cut":    {func(n *Network) { n.Cut(addr(0), addr(1)) }, 0, 0},
		"other":  {func(n *Network) { n.Cut(addr(1), addr(0)) }, 1000, 1000},
		"off":    {func(n *Network) { n.Host(addr(1)).PowerOff() }, 0, 0},
		"paused": {func(n *Network) { n.Host(addr(1)).Pause() }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, packets, listeners := pair(t, 1)
				c.spoil(n)
				count := received(packets[1])
				for range 1000 {
					packets[0].WriteTo([]byte("x"), packets[1].LocalAddr())
					time.Sleep(100 * time.Microsecond)
				}
				time.Sleep(time.Second)
				if got := len(count()); got < c.least || got > c.most {
					t.Errorf("%d of 1000 datagrams came", got)
				}
				shut(packets, listeners)
			})
		})
	}
}

// Late datagrams come after younger ones, and the same seed does the same to them again.
func TestDatagramsReorderedAgain(t *testing.T) {
	run := func(seed uint64) (order string) {
		synctest.Test(t, func(t *testing.T) {
			n, packets, listeners := pair(t, seed)
			n.SetWeather(Weather{Late: 0.3, Delay: 50 * time.Millisecond, Loss: 0.1})
			all := received(packets[1])
			for i := range 26 {
				packets[0].WriteTo([]byte{byte('a' + i)}, packets[1].LocalAddr())
				time.Sleep(3 * time.Millisecond)
			}
			time.Sleep(time.Second)
			order = all()
			shut(packets, listeners)
		})
		return order
	}
	first := run(7)
	if len(first) < 13 || strings.Contains("abcdefghijklmnopqrstuvwxyz", first) {
		t.Errorf("nothing was lost or late: %q", first)
	}
	if again := run(7); again != first {
		t.Errorf("the same seed gave %q and %q", first, again)
	}
	if other := run(8); other == first {
		t.Errorf("another seed gave %q too", other)
	}
}

// What is paused takes nothing until it goes on, and then what its kernel has kept.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, packets, listeners := pair(t, 1)
		n.Host(addr(1)).Pause()
		came := make(chan time.Duration, 1)
		began := time.Now()
		go func() {
			packets[1].ReadFrom(make([]byte, 10))
			came <- time.Since(began)
		}()
		packets[0].WriteTo([]byte("x"), packets[1].LocalAddr())
		time.Sleep(5 * time.Second)
		n.Host(addr(1)).Resume()
		if took := <-came; took != 5*time.Second {
			t.Errorf("it came after %v", took)
		}
		shut(packets, listeners)
	})
}

// connected is a stream from host 0 to host 1.
func connected(t *testing.T, n *Network, l net.Listener) (from, to net.Conn) {
	t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	from, err := n.Host(addr(0)).Dial(t.Context(), at(1))
	if err != nil {
		t.Fatal(err)
	}
	return from, <-accepted
}

// A stream brings everything in order through bad weather, and more than its window holds.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, packets, listeners := pair(t, 3)
		n.SetWeather(Weather{Loss: 0.2, Late: 0.5, Delay: 40 * time.Millisecond})
		from, to := connected(t, n, listeners[1])
		text := strings.Repeat("0123456789abcdef", 3*streamWindow/16)
		go func() {
			io.Copy(from, strings.NewReader(text))
			from.Close()
		}()
		got, err := io.ReadAll(to)
		if err != nil || string(got) != text {
			t.Errorf("%d bytes came of %d: %v", len(got), len(text), err)
		}
		to.Close()
		shut(packets, listeners)
	})
}

func TestStreamEnds(t *testing.T) {
	read := func(c net.Conn) error { _, err := c.Read(make([]byte, 1)); return err }
	for name, c := range map[string]struct {
		end  func(n *Network, from, to net.Conn)
		want error
	}{
		"closed":   {func(_ *Network, from, _ net.Conn) { from.Close() }, io.EOF},
		"killed":   {func(n *Network, _, _ net.Conn) { n.Host(addr(0)).Hangup() }, syscall.ECONNRESET},
		"deadline": {func(_ *Network, _, to net.Conn) { to.SetReadDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded},
		"no power": {func(n *Network, _, to net.Conn) {
			n.Host(addr(0)).PowerOff()
			to.SetReadDeadline(time.Now().Add(time.Hour))
		}, os.ErrDeadlineExceeded},
		"own close": {func(_ *Network, _, to net.Conn) { to.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, packets, listeners := pair(t, 1)
				from, to := connected(t, n, listeners[1])
				time.AfterFunc(time.Second, func() { c.end(n, from, to) })
				if err := read(to); !errors.Is(err, c.want) {
					t.Errorf("read ended with %v instead of %v", err, c.want)
				}
				from.Close()
				to.Close()
				shut(packets, listeners)
			})
		})
	}
}

// A writer is held up by a reader that does not read, and both ways by a cut, until it mends.
func TestStreamWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, packets, listeners := pair(t, 1)
		from, to := connected(t, n, listeners[1])
		from.SetWriteDeadline(time.Now().Add(time.Minute))
		if sent, err := from.Write(make([]byte, 2*streamWindow)); sent != streamWindow || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes were sent to nobody: %v", sent, err)
		}
		io.ReadFull(to, make([]byte, streamWindow))
		n.Cut(addr(1), addr(0))
		began := time.Now()
		to.Write([]byte("x"))
		time.AfterFunc(3*time.Second, n.Mend)
		if _, err := from.Read(make([]byte, 1)); err != nil || time.Since(began) < 3*time.Second || time.Since(began) > 7*time.Second {
			t.Errorf("a byte crossed the cut after %v: %v", time.Since(began), err)
		}
		from.Close()
		to.Close()
		shut(packets, listeners)
	})
}

func TestDialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, packets, listeners := pair(t, 1)
		if _, err := n.Host(addr(0)).Dial(t.Context(), netip.AddrPortFrom(addr(1), 1)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		n.Cut(addr(1), addr(0))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := n.Host(addr(0)).Dial(ctx, at(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("the way back is cut: %v after %v", err, time.Since(began))
		}
		if _, err := n.Host(addr(0)).Listen(at(0)); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("two listen: %v", err)
		}
		if _, err := n.Host(addr(0)).ListenPacket(at(5)); !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("another's address: %v", err)
		}
		shut(packets, listeners)
	})
}
