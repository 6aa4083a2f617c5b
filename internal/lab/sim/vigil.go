package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// Trouble is what happens to processes while they watch each other.
type Trouble string

// The troubles.
const (
	TroubleNone   Trouble = "none"
	TroublePauses Trouble = "pauses" // every 2 s a process, or one in 50 of them, is stopped for 1 s
	TroubleSlow   Trouble = "slow"   // a tenth of the processes run for half of the time only, 100 ms at once
)

// VigilCase is what nodes without records, which only watch each other, have to stand.
type VigilCase struct {
	Seed      uint64
	Nodes     int
	Loss      float64
	Trouble   Trouble
	Detection gossip.Detection
	For       time.Duration
	Off       int // so many lose power at the end, at one time; 0 is one
}

// Vigil is what came of it. One node that takes another for dead counts as one.
type Vigil struct {
	False   int             // dead by a node's word who ran
	Stopped int             // dead by a node's word who was stopped then, or a moment before
	Dead    []time.Duration // until each found out that one has no power, for each that has none, sorted
	Sent    Traffic         // of one node in a second
}

// vigil is the network of a Vigil.
type vigil struct {
	c     VigilCase
	net   *Network
	hosts []*Host
	nodes []*gossip.Gossip
	rand  *rand.Rand

	mu      sync.Mutex
	stopped map[mesh.NodeID]time.Time // until when that is an excuse
	off     map[mesh.NodeID]bool      // who has no power
	offAt   time.Time
	dead    map[[2]mesh.NodeID]time.Duration // until the first found out that the second has none
	found   Vigil
}

// stopExcuse is for how long after a stop its node may be taken for dead.
const stopExcuse = 2 * time.Second

// KeepVigil lets nodes watch each other. It is to be called in a synctest bubble.
func KeepVigil(c VigilCase) (Vigil, error) {
	v := &vigil{
		c: c, net: NewNetwork(c.Seed), rand: rand.New(rand.NewPCG(c.Seed, 2)),
		stopped: map[mesh.NodeID]time.Time{}, off: map[mesh.NodeID]bool{}, dead: map[[2]mesh.NodeID]time.Duration{},
	}
	err := v.start()
	if err == nil {
		err = v.keep()
	}
	for _, g := range v.nodes {
		err = errors.Join(err, g.Close())
	}
	time.Sleep(time.Minute) // a probe that was under way runs on
	return v.found, err
}

func vigilID(i int) mesh.NodeID { return mesh.NodeID(fmt.Sprintf("a%0*x", mesh.IDLength-1, i)) }

func vigilAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), gossipPort)
}

func (v *vigil) start() error {
	for i := range v.c.Nodes {
		at := vigilAddr(i)
		host := v.net.Host(at.Addr())
		g, err := gossip.Start(gossip.Config{
			ID: vigilID(i), Bind: at, Key: make([]byte, gossip.KeySize), State: &watcher{vigil: v, self: i},
			Log: slog.New(slog.DiscardHandler), Detection: v.c.Detection, Network: host,
		})
		if err != nil {
			return err
		}
		v.nodes, v.hosts = append(v.nodes, g), append(v.hosts, host)
		if i == 0 {
			continue
		}
		if _, err := g.Join(context.Background(), vigilAddr(v.rand.IntN(i))); err != nil {
			return err
		}
	}
	_, err := Within(waitAgree, 50*time.Millisecond, v.complete)
	time.Sleep(10 * time.Second)
	return err
}

func (v *vigil) complete() error {
	for i, g := range v.nodes {
		if n := len(g.Members()); n != v.c.Nodes {
			return fmt.Errorf("node %d finds %d of %d alive", i, n, v.c.Nodes)
		}
	}
	return nil
}

func (v *vigil) keep() error {
	v.net.SetWeather(Weather{Loss: v.c.Loss})
	v.mu.Lock()
	v.found = Vigil{}
	v.mu.Unlock()
	before := v.net.Traffic()
	v.trouble()
	sent := v.net.Traffic().perNode(before, v.c.Nodes, v.c.For)
	v.mu.Lock()
	v.found.Sent = sent
	v.mu.Unlock()
	if _, err := Within(waitAgree, 50*time.Millisecond, v.complete); err != nil {
		return err
	}
	return v.powerOff()
}

// trouble is the time in which nobody dies.
func (v *vigil) trouble() {
	ends := time.Now().Add(v.c.For)
	for step := 0; time.Now().Before(ends); step++ {
		switch v.c.Trouble {
		case TroublePauses:
			v.pause(v.someNodes(1+v.c.Nodes/50), time.Second, stopExcuse)
			time.Sleep(time.Second)
		case TroubleSlow:
			slow := make([]int, 0, v.c.Nodes/10+1)
			for i := 0; i < v.c.Nodes; i += 10 {
				slow = append(slow, i)
			}
			v.pause(slow, 100*time.Millisecond, 0)
			time.Sleep(100 * time.Millisecond)
		default:
			time.Sleep(time.Second)
		}
	}
}

func (v *vigil) someNodes(n int) []int { return v.rand.Perm(v.c.Nodes)[:n] }

// pause stops processes for so long.
func (v *vigil) pause(which []int, long, excuse time.Duration) {
	for _, i := range which {
		if excuse > 0 {
			v.mu.Lock()
			v.stopped[vigilID(i)] = time.Now().Add(long + excuse)
			v.mu.Unlock()
		}
		v.hosts[i].Pause()
	}
	time.Sleep(long)
	for _, i := range which {
		v.hosts[i].Resume()
	}
}

// powerOff measures how long it takes the others to find the last nodes dead.
func (v *vigil) powerOff() error {
	off := max(1, v.c.Off)
	running := v.c.Nodes - off
	v.mu.Lock()
	for i := running; i < v.c.Nodes; i++ {
		v.off[vigilID(i)] = true
	}
	v.offAt = time.Now()
	v.mu.Unlock()
	for _, host := range v.hosts[running:] {
		host.PowerOff()
	}
	_, err := Within(waitDead, 50*time.Millisecond, func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if found := len(v.dead); found < running*off {
			return fmt.Errorf("%d nodes have found %d of %d dead", running, found, off)
		}
		return nil
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	v.found.Dead = slices.Sorted(maps.Values(v.dead))
	return err
}

// silent is one node's word that another is dead. That of the one without power, whose process runs
// on and hears nobody, does not count.
func (v *vigil) silent(by, id mesh.NodeID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.off[by]:
	case v.off[id]:
		if pair := [2]mesh.NodeID{by, id}; v.dead[pair] == 0 {
			v.dead[pair] = time.Since(v.offAt)
		}
	case time.Now().Before(v.stopped[id]):
		v.found.Stopped++
	default:
		v.found.False++
	}
}

// watcher is the gossip.State of a node without records.
type watcher struct {
	vigil *vigil
	self  int
}

// Root, Count, Buckets, Heads, Now, Met, Select and Merge are those of no records.
func (*watcher) Root() mesh.Sum { return mesh.Sum{} }

// Count is none.
func (*watcher) Count() int { return 0 }

// Buckets are empty.
func (*watcher) Buckets() [mesh.BucketCount]mesh.Sum { return [mesh.BucketCount]mesh.Sum{} }

// Heads are none.
func (*watcher) Heads(uint8) []mesh.Head { return nil }

// Now is always the same: nothing is written.
func (*watcher) Now() uint64 { return 1 }

// Met is no news.
func (*watcher) Met(mesh.NodeID, uint64) {}

// Select finds nothing.
func (*watcher) Select([]mesh.Key) []mesh.Record { return nil }

// Merge takes nothing.
func (*watcher) Merge([]mesh.Record) []mesh.Record { return nil }

// FlowsOver is no news.
func (*watcher) FlowsOver(mesh.Over) {}

// MemberAlive is no news.
func (*watcher) MemberAlive(mesh.NodeID) {}

// MemberSilent is counted.
func (w *watcher) MemberSilent(id mesh.NodeID) { w.vigil.silent(vigilID(w.self), id) }

// Peers are all others.
func (w *watcher) Peers() []netip.AddrPort {
	var peers []netip.AddrPort
	for i := range w.vigil.c.Nodes {
		if i != w.self {
			peers = append(peers, vigilAddr(i))
		}
	}
	return peers
}

// Nodes are all others.
func (w *watcher) Nodes() []mesh.NodeID {
	var ids []mesh.NodeID
	for i := range w.vigil.c.Nodes {
		if i != w.self {
			ids = append(ids, vigilID(i))
		}
	}
	return ids
}
