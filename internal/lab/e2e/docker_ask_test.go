package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// expected is the text of what a cell wants, with its addresses.
func (b *dockerBase) expected(c matrix.Cell) string {
	family := cluster.Family(c.Family)
	from := gateway(kindOf(c.Network), family)
	switch c.Want {
	case matrix.Lost:
		return fmt.Sprintf("arrives from %s, is answered from %s", from, b.gatewayOf(b.place(c).(*resident), family))
	case matrix.Unanswered:
		return fmt.Sprintf("arrives from %s, then silence", from)
	case matrix.Arrives:
		return fmt.Sprintf("arrives from %s, then silence", b.Client.Addr(family))
	default:
		return b.base.expected(c)
	}
}

// try dials as a cell says, and finds what it wants of it or something else.
func (b *dockerBase) try(c matrix.Cell) string {
	to, port := b.dialled(c)
	var ask *probe.Attempt
	q := question{proto: c.Proto, family: cluster.Family(c.Family), who: b.target(c), port: port}
	q.begin = func() (a *probe.Attempt, err error) {
		b.heard(c).Forget()
		ask, err = b.begin(c, to)
		return ask, err
	}
	q.mark = func() error {
		err := errors.Join(b.mark(c), b.markProcess(c, port))
		if err == nil && ask.Accepted() { // perhaps by a port's process, whose own connection is another
			q.who.sniffer.Await(patience, q.arrived)
		}
		return err
	}
	if _, container := b.place(c).(*resident); c.Proto == "udp" && (container || c.Asker == matrix.Outside || c.Asker == matrix.Forged) {
		q.elsewhere = func() (netip.Addr, bool) {
			p, ok := b.heard(c).Await(patience, func(p probe.Packet) bool { return q.isAnswer(p) })
			return p.Source.Addr(), ok && p.Source.Addr() != to.Addr()
		}
	}
	if c.Want == matrix.Unanswered {
		q.wait = time.Second
	}
	return q.try()
}

// isAnswer says of a packet whether it answers the question, and not a marker.
func (q question) isAnswer(p probe.Packet) bool {
	return strings.HasPrefix(p.Payload, q.who.name+" sees ") && strings.HasSuffix(p.Payload, fmt.Sprint(" length ", len(probe.Question))) &&
		p.Source.Addr().Is4() == (q.family == cluster.IPv4)
}

// heard is what comes to the asker.
func (b *dockerBase) heard(c matrix.Cell) *probe.Sniffer {
	switch at := b.place(c).(type) {
	case *resident:
		return at.sniffer
	case cluster.Host:
		return b.client
	}
	return b.host
}

// mark sends packets after a question: as far as the node, and when they were seen there, on
// from it to the endpoint.
func (b *dockerBase) mark(c matrix.Cell) error {
	family, who := cluster.Family(c.Family), b.target(c)
	node := &resident{name: "the node", sniffer: b.host}
	var first error
	switch at := b.place(c).(type) {
	case *resident:
		first = marker(at, netip.AddrPortFrom(b.gatewayOf(at, family), markerTarget), node)
	case cluster.Host:
		first = marker(b.Client, netip.AddrPortFrom(b.node.Addr(family), markerTarget), node)
	}
	return errors.Join(first, marker(b.node, netip.AddrPortFrom(who.addr(family), markerTarget), who))
}

// markProcess sends a datagram by way of the process of a port, which passes on in the order
// in which it hears. A packet to loopback is translated by no rule, nor what a container sends.
func (b *dockerBase) markProcess(c matrix.Cell, port uint16) error {
	if !b.processes || c.Proto != "udp" || c.Network == matrix.Internal || port == probe.HiddenPort {
		return nil
	}
	family, published := cluster.Family(c.Family), publishedBy(kindOf(c.Network), port)
	if port == addressTarget {
		return marker(b.of(nameOf(c.Network)+"-same"), netip.AddrPortFrom(second(family).Addr(), published), b.target(c))
	}
	return marker(b.node, netip.AddrPortFrom(loopbackOf(family), published), b.target(c))
}

func (b *dockerBase) gatewayOf(r *resident, f cluster.Family) netip.Addr {
	for i, k := range kinds() {
		if k.name == r.network {
			return gateway(i, f)
		}
	}
	return gateway(len(kinds()), f)
}
