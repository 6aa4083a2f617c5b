package gossip

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// knock opens a stream to a node from an address.
func knock(t *testing.T, network *memnet, from netip.Addr, to *node, says ...byte) net.Conn {
	t.Helper()
	conn, err := network.from(from).Dial(t.Context(), to.addr)
	if err != nil {
		t.Fatal(err)
	}
	if len(says) > 0 {
		conn.SetDeadline(time.Now().Add(time.Millisecond)) // it may be shown the door meanwhile
		conn.Write(says)
	}
	return conn
}

func held(d *door) (guests, strangers, bytes int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sources {
		guests += s.guests.Len()
	}
	return guests, d.strangers.Len(), d.bytes
}

// 50,000 idle streams, from many addresses, from one, and from a peer's own: little is kept
// of them, and the peers go on.
func TestIdleStreams(t *testing.T) {
	inBubble(t, 3, func(b *bubble) {
		t, network, nodes := b.T, b.network, b.nodes
		if !full(nodes, 10*time.Second) {
			t.Fatal("they did not find each other")
		}
		network.set(func() { network.lose = func() bool { return true } }) // streams alone must do
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		goroutines := runtime.NumGoroutine()
		victim := nodes[0]
		const crowd = 50_000
		idle := make([]net.Conn, 0, crowd)
		first := [][]byte{nil, {keyedByte}, {tlsByte}, {10}, {2, 0xff}}
		for i := range crowd {
			from := netip.AddrFrom4([4]byte{100, byte(i >> 16), byte(i >> 8), byte(i)})
			switch i % 5 {
			case 1:
				from = netip.MustParseAddr("192.0.2.1")
			case 2:
				from = nodes[1].addr.Addr()
			}
			idle = append(idle, knock(t, network, from, victim, first[i%len(first)]...))
		}
		synctest.Wait()
		guests, strangers, _ := held(victim.link.door)
		if strangers > strangerLimit || guests > strangerLimit+2*sourceLimit {
			t.Errorf("%d streams are held, %d of them strangers'", guests, strangers)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		perStream := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / crowd
		t.Logf("%d idle streams: %d held, %d goroutines more, %d bytes each with their other ends", crowd, guests, runtime.NumGoroutine()-goroutines, perStream)
		if more := runtime.NumGoroutine() - goroutines; more > 4*(strangerLimit+2*sourceLimit) {
			t.Errorf("%d goroutines more", more)
		}
		nodes[1].write(service(1))
		victim.write(service(2))
		if _, err := agree(nodes, 6*time.Second); err != nil || victim.Count() != 2 {
			t.Errorf("%d records, %v", victim.Count(), err)
		}
		joiner := startIn(t, network, 9, nil)
		defer joiner.Close()
		if _, err := joiner.Join(t.Context(), victim.addr); err != nil {
			t.Errorf("a new node does not get in: %v", err)
		}
		for _, c := range idle {
			c.Close()
		}
		time.Sleep(time.Minute)
		if guests, strangers, bytes := held(victim.link.door); guests+strangers+bytes != 0 {
			t.Errorf("left over: %d streams, %d strangers', %d bytes", guests, strangers, bytes)
		}
	})
}

// A stream that says it has a gigabyte to tell, and one that tells as much as it may.
func TestStreamsThatSendMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemnet()
		n := startIn(t, network, 1, nil)
		stranger := netip.MustParseAddr("192.0.2.1")
		for _, first := range [][]byte{{10, 0x40, 0, 0, 0}, {10, 0x01, 0x3f, 0xff, 0xff}, {6, 0xff}, {keyedByte}, {tlsByte}} {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			conn := knock(t, network, stranger, n, first...)
			conn.SetDeadline(time.Now().Add(time.Minute))
			go io.Copy(io.Discard, conn)
			chunk, sent := make([]byte, 64<<10), 0
			for sent < 64<<20 {
				m, err := conn.Write(chunk)
				if sent += m; err != nil {
					break
				}
			}
			synctest.Wait()
			runtime.ReadMemStats(&after)
			if sent > guestBytes+len(chunk) {
				t.Errorf("%x: %d bytes were read", first, sent)
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 8*guestBytes {
				t.Errorf("%x: %d bytes spent", first, spent)
			}
			conn.Close()
		}
		n.Close()
		time.Sleep(3 * time.Minute)
	})
}

func TestDoor(t *testing.T) {
	enter := func(d *door, from string) (*guest, net.Conn) {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close() })
		return d.enter(memconn{here, netip.AddrPortFrom(netip.MustParseAddr(from), 1)}), there
	}
	closed := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(-time.Second))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF)
	}
	newTestDoor := func() *door { return newDoor(newLogbook(slog.New(slog.DiscardHandler))) }

	t.Run("one address has few, and the oldest gives way", func(t *testing.T) {
		d := newTestDoor()
		_, oldest := enter(d, "192.0.2.1")
		_, other := enter(d, "192.0.2.2")
		for range sourceLimit {
			enter(d, "192.0.2.1")
		}
		if !closed(oldest) || closed(other) {
			t.Error("the oldest stream of the address is open, or another is closed")
		}
	})
	t.Run("a /64 is one address", func(t *testing.T) {
		d := newTestDoor()
		_, oldest := enter(d, "2001:db8::1")
		for range sourceLimit {
			enter(d, "2001:db8::2:3")
		}
		if !closed(oldest) {
			t.Error("the oldest is open")
		}
	})
	t.Run("peers are not strangers", func(t *testing.T) {
		d := newTestDoor()
		d.expect([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:7956")})
		_, peer := enter(d, "192.0.2.1")
		named, namedEnd := enter(d, "192.0.2.2")
		named.name()
		_, again := enter(d, "192.0.2.2")
		_, stranger := enter(d, "192.0.2.3")
		for i := range strangerLimit {
			enter(d, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}).String())
		}
		if !closed(stranger) || closed(peer) || closed(again) || closed(namedEnd) {
			t.Error("the stranger is open, or a peer's is closed")
		}
	})
	t.Run("a crowd of few addresses gives way to who is alone", func(t *testing.T) {
		d := newTestDoor()
		_, alone := enter(d, "192.0.2.1")
		_, oldest := enter(d, "198.51.100.0")
		for i := range 2 * strangerLimit {
			enter(d, netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 10)}).String())
		}
		if closed(alone) || !closed(oldest) {
			t.Error("who is alone is out, or the oldest of the crowd is not")
		}
		for i := range strangerLimit {
			enter(d, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}).String())
		}
		if _, strangers, _ := held(d); !closed(alone) || strangers > strangerLimit {
			t.Errorf("of many who are alone the oldest is in, and %d strangers", strangers)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		d := newTestDoor()
		g, _ := enter(d, "192.0.2.1")
		if !d.charge(g, guestBytes) || d.charge(g, 1) {
			t.Error("one stream's limit does not hold")
		}
		h, _ := enter(d, "192.0.2.1")
		if !d.charge(h, sourceBytes-guestBytes-1) || d.charge(h, 1) {
			t.Error("one address's limit does not hold")
		}
		g.Close()
		if !d.charge(h, 0) {
			t.Error("what a closed stream sent still counts")
		}
		h.name()
		if !d.charge(h, 100*sourceBytes) {
			t.Error("a peer that has named itself is held to a stranger's limit")
		}
		h.Close()
		if n, m, b := held(d); n+m+b != 0 {
			t.Errorf("left over: %d %d %d", n, m, b)
		}
	})
	t.Run("closed", func(t *testing.T) {
		d := newTestDoor()
		_, before := enter(d, "192.0.2.1")
		d.close()
		_, after := enter(d, "192.0.2.1")
		if !closed(before) || !closed(after) {
			t.Error("a stream is open")
		}
	})
}
