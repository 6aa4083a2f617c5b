// Package sim runs whole state planes of many nodes in one process, in virtual time, on a
// network that loses, delays, doubles, reorders and cuts, and makes them fail otherwise.
//
//	seed -> Schedule: who does what, what breaks, when
//	     -> World: nodes (agent.Plane) on a Network, in one testing/synctest bubble
//	     -> all heals -> Agreed, Sound: the same bytes everywhere, no two owners of one thing
//
// What the network does to a packet follows from the seed, the two hosts and the packet's
// number between them. The order in which goroutines of one instant run does not: a failure
// that hangs on it comes in some runs of its seed and not in others.
package sim

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Weather is what the network does to packets that are not cut off.
type Weather struct {
	Loss      float64       // share of packets that are lost; of stream segments, sent again
	Duplicate float64       // share of datagrams that come twice
	Late      float64       // share of packets that come up to Delay later, maybe after younger ones
	Delay     time.Duration // the most that a late one is late
}

// Traffic is what was sent since the network was made, IP headers included.
type Traffic struct {
	Packets, Bytes               uint64 // datagrams
	StreamPackets, StreamBytes   uint64 // segments, as many as TCP would need
	Streams, Dropped, Overflowed uint64 // connections; datagrams lost by the weather or a cut, and by a full socket
}

// Network is a simulated IP network. Its methods are safe for concurrent use; all of its
// users must be in one synctest bubble.
type Network struct {
	seed uint64

	mu      sync.Mutex
	hosts   map[netip.Addr]*Host
	weather Weather
	cut     map[[2]netip.Addr]bool // from, to
	drawn   map[[2]netip.Addr]uint64
	traffic Traffic
	trace   uint64
}

// NewNetwork is a network without hosts, in good weather.
func NewNetwork(seed uint64) *Network {
	return &Network{seed: seed, hosts: map[netip.Addr]*Host{}, cut: map[[2]netip.Addr]bool{}, drawn: map[[2]netip.Addr]uint64{}}
}

// SetWeather changes what happens to packets from now on.
func (n *Network) SetWeather(w Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// Cut lets nothing pass from one address to another, one way.
func (n *Network) Cut(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{from, to}] = true
}

// Mend ends every cut.
func (n *Network) Mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// Traffic is what was sent until now.
func (n *Network) Traffic() Traffic {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.traffic
}

// Host is the machine at an address, which is made and running where it was not there.
func (n *Network) Host(at netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[at]
	if h == nil {
		h = &Host{
			net: n, addr: at, packets: map[uint16]*packetConn{}, listeners: map[uint16]*listener{},
			conns: map[*conn]bool{}, running: make(chan struct{}),
		}
		close(h.running)
		n.hosts[at] = h
	}
	return h
}

// The time that a packet is on its way: from least to twice least, at random.
const leastLatency = time.Millisecond

// draw is the source of what happens to the next packet between two hosts. The lock is held.
func (n *Network) draw(from, to netip.Addr, size int) *rand.Rand {
	way := [2]netip.Addr{from, to}
	n.drawn[way]++
	packet := mix(from.As16(), to.As16(), n.drawn[way])
	n.trace = mix(from.As16(), to.As16(), n.trace^uint64(size)^uint64(time.Now().UnixNano()))
	return rand.New(rand.NewPCG(n.seed, packet))
}

func mix(a, b [16]byte, n uint64) uint64 {
	h := fnv.New64a()
	h.Write(a[:])
	h.Write(b[:])
	h.Write(binary.LittleEndian.AppendUint64(nil, n))
	return h.Sum64()
}

// Trace is a hash of which packets were sent so far, of what size, when and in which order: two runs
// with one trace have, to all who can tell, done the same.
func (n *Network) Trace() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trace
}

func (n *Network) open(from, to *Host) bool {
	return !from.off && !to.off && !n.cut[[2]netip.Addr{from.addr, to.addr}]
}

// latency is how long one packet takes. The lock is held.
func (n *Network) latency(r *rand.Rand) time.Duration {
	d := leastLatency + time.Duration(r.Int64N(int64(leastLatency)))
	if n.weather.Delay > 0 && r.Float64() < n.weather.Late {
		d += time.Duration(r.Int64N(int64(n.weather.Delay)))
	}
	return d
}

const datagramHeader = 28 // IPv4 and UDP

// post gives when each copy of a datagram arrives; none where it is lost.
func (n *Network) post(from, to *Host, size int) []time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.traffic.Packets++
	n.traffic.Bytes += uint64(size + datagramHeader)
	r := n.draw(from.addr, to.addr, size)
	if !n.open(from, to) || r.Float64() < n.weather.Loss {
		n.traffic.Dropped++
		return nil
	}
	after := []time.Duration{n.latency(r)}
	if r.Float64() < n.weather.Duplicate {
		after = append(after, n.latency(r))
	}
	return after
}

// A segment that is lost is sent again after retransmitFirst, then after twice that, and so on.
const (
	retransmitFirst = 200 * time.Millisecond
	retransmitMost  = 10 * time.Second
	segmentHeader   = 52 // IPv4, TCP and a timestamp option
	segmentSize     = 1400
	streamWindow    = 256 << 10 // bytes that a writer may be ahead of the reader
)

// carry gives when a piece of a stream arrives, were it sent now; false where it is lost.
func (n *Network) carry(from, to *Host, size int) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	segments := max(1, (size+segmentSize-1)/segmentSize)
	n.traffic.StreamPackets += uint64(segments)
	n.traffic.StreamBytes += uint64(size + segments*segmentHeader)
	r := n.draw(from.addr, to.addr, size)
	if !n.open(from, to) || r.Float64() < n.weather.Loss {
		return 0, false
	}
	return n.latency(r), true
}

// find is the host at an address, or nil.
func (n *Network) find(at netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[at]
}

func (n *Network) overflowed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.traffic.Overflowed++
}

func (t Traffic) String() string {
	return fmt.Sprintf("%d packets %d B, %d streams %d segments %d B, %d dropped, %d overflowed",
		t.Packets, t.Bytes, t.Streams, t.StreamPackets, t.StreamBytes, t.Dropped, t.Overflowed)
}
