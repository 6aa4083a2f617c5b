package gossip

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// costly is a Secure that counts how often it has to work for those who call.
type costly struct {
	Secure
	accepted *atomic.Int64
}

func (c costly) Accept(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	c.accepted.Add(1)
	return c.Secure.Accept(ctx, conn)
}

// A crowd that begins greetings as fast as it can costs this node a bounded time, peers come at
// once, and so does a stranger who is not of the crowd.
func TestStrangersGreetingsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(3 * time.Minute) // memberlist's probes run on after Close
		network := newMemnet()
		var accepted atomic.Int64
		secured := func(n int) func(*Config) {
			return func(c *Config) { c.Secure = costly{keyed{nodeID(n), key(1)}, &accepted} }
		}
		victim := startIn(t, network, 1, secured(1), memAddr(2))
		defer victim.Close()
		began := time.Now()
		for i := range 3000 {
			conn := knock(t, network, netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 4)}), victim, append([]byte{tlsByte}, make([]byte, 40)...)...)
			defer conn.Close()
			synctest.Wait()
		}
		const seconds = 10
		time.Sleep(seconds*time.Second - time.Since(began))
		if got := accepted.Load(); got > 4*greetingsSource*(seconds+1) {
			t.Errorf("%d greetings of four addresses in %d s", got, seconds)
		}
		for _, n := range []int{2, 9} { // a peer, and one whom nobody knows
			friend := startIn(t, network, n, secured(n))
			defer friend.Close()
			at := time.Now()
			if _, err := friend.Join(t.Context(), victim.addr); err != nil || time.Since(at) > time.Second {
				t.Errorf("node %d came in after %v: %v", n, time.Since(at), err)
			}
		}
	})
}

// Ten addresses that begin greetings all the time take neither the turns nor the places of others
// whom nobody knows: some join, and the addresses of some have just changed.
func TestAFewAddressesLeaveTurnsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(3 * time.Minute) // memberlist's probes run on after Close
		network := newMemnet()
		victim := startIn(t, network, 1, nil)
		defer victim.Close()
		ctx, stop := context.WithCancel(t.Context())
		var crowd sync.WaitGroup
		defer crowd.Wait()
		defer stop()
		crowd.Go(func() {
			hello := append([]byte{tlsByte}, make([]byte, 40)...)
			for i := 0; ctx.Err() == nil; i++ {
				defer knock(t, network, netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 10)}), victim, hello...).Close()
				if i%4 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
		for n := 9; n < 17; n++ {
			time.Sleep(370 * time.Millisecond)
			friend := startIn(t, network, n, nil)
			defer friend.Close()
			at := time.Now()
			if _, err := friend.Join(t.Context(), victim.addr); err != nil || time.Since(at) > time.Second {
				t.Errorf("node %d came in after %v: %v", n, time.Since(at), err)
			}
		}
	})
}

// Strangers of many addresses have no more than all together may, and each second anew.
func TestGreetings(t *testing.T) {
	g, now := newGreetings(), time.Unix(1e9, 0)
	for second := range 3 {
		now = now.Add(time.Second)
		taken := 0
		for i := range 10 * greetingsLimit {
			at := now.Add(time.Duration(i) * time.Microsecond)
			switch wait := g.take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), at); {
			case wait == 0:
				taken++
			case wait > time.Second || wait < 900*time.Millisecond:
				t.Fatalf("to wait: %v", wait)
			}
		}
		if taken != greetingsLimit {
			t.Errorf("%d were taken in second %d", taken, second)
		}
	}
	now = now.Add(5 * time.Second)
	for i := range 10 * 100 {
		g.take(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 10)}), now)
	}
	others := 0
	for i := range 100 {
		if g.take(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), now) == 0 {
			others++
		}
	}
	if others != greetingsShare {
		t.Errorf("ten addresses left %d to others", others)
	}
	one := 0
	for range 100 {
		if g.take(netip.MustParseAddr("10.9.9.9"), now.Add(2*time.Second)) == 0 {
			one++
		}
	}
	if one != greetingsSource {
		t.Errorf("one address had %d", one)
	}
}
