package e2e

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// How long an answer may take that is known to come: the question was seen to arrive.
const patience = 5 * time.Second

// dialled is the address and port that a cell is about, and at which port of the endpoint it
// would arrive.
func (b *base) dialled(c matrix.Cell) (to netip.AddrPort, target uint16) {
	target = map[matrix.Port]uint16{
		matrix.Published: probe.TargetPort, matrix.Unpublished: probe.HiddenPort,
		matrix.OnLoopback: loopbackTarget, matrix.OnAddress: addressTarget, matrix.Elsewhere: addressTarget,
	}[c.Port]
	family, port := cluster.Family(c.Family), publishedBy(kindOf(c.Network), target)
	if c.Port == matrix.Unpublished {
		port = target
	}
	switch c.At {
	case matrix.AtNode:
		return netip.AddrPortFrom(b.node.Addr(family), port), target
	case matrix.AtSecond:
		return netip.AddrPortFrom(second(family).Addr(), port), target
	case matrix.AtLoopback:
		return netip.AddrPortFrom(loopbackOf(family), port), target
	case matrix.AtEndpoint:
		return netip.AddrPortFrom(b.target(c).addr(family), target), target
	}
	panic("no address for " + c.Name())
}

func loopbackOf(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return netip.MustParseAddr("127.0.0.1")
	}
	return netip.IPv6Loopback()
}

func (b *base) target(c matrix.Cell) *resident { return b.of(nameOf(c.Network) + "-target") }

// place is where the asker's sockets are.
func (b *base) place(c matrix.Cell) probe.Place {
	switch c.Asker {
	case matrix.Host, matrix.Loopback:
		return b.node
	case matrix.Itself:
		return b.target(c)
	case matrix.Same:
		return b.of(nameOf(c.Network) + "-same")
	case matrix.Other:
		return b.of("other")
	case matrix.Outside, matrix.Forged, matrix.Neighbour:
		return b.Client
	}
	panic("no place for " + c.Name())
}

// expected is the text of what is wanted of a cell, with its addresses.
func (b *base) expected(c matrix.Cell) string {
	family := cluster.Family(c.Family)
	switch c.Want {
	case matrix.No:
		return "does not arrive"
	case matrix.Gateway:
		return "sees " + gateway(kindOf(c.Network), family).String()
	case matrix.Dialled:
		to, _ := b.dialled(c)
		return "sees " + to.Addr().String()
	case matrix.Own:
		if who, ok := b.place(c).(*resident); ok {
			return "sees " + who.addr(family).String()
		}
		return "sees " + b.Client.Addr(family).String()
	default:
		panic("nothing is wanted of " + c.Name())
	}
}

// try dials as a cell says.
func (b *base) try(c matrix.Cell) string {
	to, port := b.dialled(c)
	return question{
		begin: func() (*probe.Attempt, error) { return b.begin(c, to) },
		mark:  func() error { return b.mark(c) },
		proto: c.Proto, family: cluster.Family(c.Family), who: b.target(c), port: port,
	}.try()
}

// question is something to dial, and where it would arrive.
type question struct {
	begin  func() (*probe.Attempt, error)
	mark   func() error // sends a packet the same way that is known to arrive, and waits for it
	proto  string
	family cluster.Family
	who    *resident
	port   uint16 // of who
	oneWay bool   // how it arrives, no matter who answers
	// elsewhere waits for an answer, and says where it came from unless that is what was
	// dialled: the asker's socket does not take it. May be nil.
	elsewhere func() (netip.Addr, bool)
	wait      time.Duration // for an answer; 0: patience
}

// try dials, and sends a marker after it the same way. Where the marker has come and the first
// packet has not, it does not arrive.
func (q question) try() string {
	q.who.sniffer.Forget()
	ask, err := q.begin()
	if err != nil {
		return err.Error()
	}
	defer ask.Close()
	for range 2 { // the second finds all hardware addresses known
		if err := q.mark(); err != nil {
			return err.Error()
		}
	}
	if p, ok := q.who.sniffer.Find(q.arrived); ok {
		if q.oneWay {
			return "comes from " + p.Source.Addr().String()
		}
		return q.answer(ask, p)
	}
	const moment = 2 * time.Millisecond // an answer of somebody else is there already
	if a, err := ask.Finish(moment); err == nil {
		return "is answered by " + a.Name
	}
	return "does not arrive"
}

// arrived says of a packet that came to the endpoint whether it is the question.
func (q question) arrived(p probe.Packet) bool {
	isMarker := p.Proto == "udp" && p.Payload != probe.Question
	return p.Proto == q.proto && !isMarker && p.Dest.Port() == q.port && p.Dest.Addr().Is4() == (q.family == cluster.IPv4)
}

// answer is how a question ends that was seen to arrive.
func (q question) answer(ask *probe.Attempt, p probe.Packet) string {
	if q.elsewhere != nil {
		if from, ok := q.elsewhere(); ok {
			return fmt.Sprintf("arrives from %s, is answered from %s", p.Source.Addr(), from)
		}
	}
	a, err := ask.Finish(cmp.Or(q.wait, patience))
	switch {
	case err != nil:
		return fmt.Sprintf("arrives from %s, then %s", p.Source.Addr(), probe.Outcome(err))
	case a.Name != q.who.name:
		return "is answered by " + a.Name
	case a.Source.Addr() != p.Source.Addr():
		return fmt.Sprintf("arrives from %s, sees %s", p.Source.Addr(), a.Source.Addr())
	default:
		return "sees " + a.Source.Addr().String()
	}
}

// begin sends the first packet of a cell.
func (b *base) begin(c matrix.Cell, to netip.AddrPort) (*probe.Attempt, error) {
	if c.Asker == matrix.Neighbour {
		return probe.Unanswered(), b.frame(probe.Packet{Proto: c.Proto, Dest: to, Payload: probe.Question})
	}
	return probe.Client{Place: b.place(c), Wait: patience}.Begin(c.Proto, to)
}

// frame sends a packet from the client to the node's hardware address.
func (b *base) frame(p probe.Packet) error {
	const port = 45000
	family := cluster.IPv4
	if p.Dest.Addr().Is6() {
		family = cluster.IPv6
	}
	p.Source = netip.AddrPortFrom(b.Client.Addr(family), port)
	if p.Proto != "udp" {
		p.Payload = ""
	}
	var mac net.HardwareAddr
	err := b.node.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = eth0.HardwareAddr
		}
		return err
	})
	return errors.Join(err, probe.Frame{Device: "eth0", To: mac, Packet: p}.Send(b.Client))
}

// mark sends packets on the cell's way that are known to arrive, and waits for them.
func (b *base) mark(c matrix.Cell) error {
	family, who := cluster.Family(c.Family), b.target(c)
	direct := netip.AddrPortFrom(who.addr(family), markerTarget)
	public := func(kind matrix.Network) netip.AddrPort {
		return netip.AddrPortFrom(b.node.Addr(family), publishedBy(kindOf(kind), markerTarget))
	}
	host := func() error { return marker(b.node, direct, who) }
	switch {
	case c.Asker == matrix.Host, c.Asker == matrix.Loopback, c.Asker == matrix.Itself && c.Network == matrix.Internal:
		return host()
	case c.Asker == matrix.Same && c.Network != matrix.Apart:
		return marker(b.place(c), direct, who)
	case c.Network != matrix.Internal && c.Asker == matrix.Neighbour:
		return b.framed(public(c.Network), who)
	case c.Network != matrix.Internal:
		return marker(b.place(c), public(c.Network), who)
	}
	// Nothing leads from there to an internal network: as far as the node, then on from it.
	witness, to := b.of("nat-target"), public(matrix.NAT)
	if c.Asker == matrix.Neighbour {
		return errors.Join(b.framed(to, witness), host())
	}
	return errors.Join(marker(b.place(c), to, witness), host())
}

// marker sends datagrams until one has come; the first does, where hardware addresses are known.
func marker(from probe.Place, to netip.AddrPort, who *resident) error {
	return marked(who, to, func(text string) error {
		return probe.Client{Place: from, Wait: patience}.Tell(to, text)
	})
}

func (b *base) framed(to netip.AddrPort, who *resident) error {
	return marked(who, to, func(text string) error {
		return b.frame(probe.Packet{Proto: "udp", Dest: to, Payload: text})
	})
}

func marked(who *resident, to netip.AddrPort, send func(text string) error) error {
	const tries, each = 10, 300 * time.Millisecond
	token := rand.Text()
	var last error
	for range tries {
		last = send(token)
		if _, ok := who.sniffer.Await(each, func(p probe.Packet) bool { return p.Payload == token }); ok {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("no marker to %s comes to %s", to, who.name), last)
}
