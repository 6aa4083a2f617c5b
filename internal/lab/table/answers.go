package table

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// How long an answer may take. No check passes or fails by being fast: an answer
// that is there comes in milliseconds, and a virtual machine may be slow.
const (
	usual  = 5 * time.Second
	silent = 1500 * time.Millisecond // where none is expected
)

// How often one cell asks: at least so often, and on until each endpoint has
// answered, up to so often.
const (
	least = 6
	most  = 24
)

type builder struct {
	*cluster.Cluster
	wait   time.Duration
	checks []Check
}

func (b *builder) add(c Check) { b.checks = append(b.checks, c) }

func families() []cluster.Family { return []cluster.Family{cluster.IPv4, cluster.IPv6} }

// asker is somebody who asks, with the name that the table gives it.
type asker struct {
	name  string
	place probe.Place
}

func (b *builder) client(a asker) probe.Client { return probe.Client{Place: a.place, Wait: b.wait} }

// both adds a TCP and a UDP cell: a asks at to, and each of names answers and sees source.
func (b *builder) both(a asker, to target, source netip.Addr, names ...string) {
	want := sees(names, source.String())
	c := b.client(a)
	tcp := func() (probe.Answer, error) { return c.Get(to.at) }
	udp := func() (probe.Answer, error) { return c.Ask(to.at, 1) }
	b.add(Check{From: a.name, To: to.name, How: "tcp", Want: want, try: func() string { return gather(len(names), tcp) }})
	b.add(Check{From: a.name, To: to.name, How: "udp", Want: want, try: func() string { return gather(len(names), udp) }})
}

// target is an address and port to ask, with the name that the table gives it.
type target struct {
	name string
	at   netip.AddrPort
}

func published(of string, a netip.Addr) target {
	return target{of + " " + a.String(), netip.AddrPortFrom(a, cluster.Published)}
}

// gather asks often enough for n endpoints to be met, and says who answered and
// whom they saw; the first failure ends it.
func gather(n int, ask func() (probe.Answer, error)) string {
	var answers []probe.Answer
	for i := 0; i < most && (i < least || len(namesOf(answers)) < n); i++ {
		a, err := ask()
		if err != nil {
			return probe.Outcome(err)
		}
		answers = append(answers, a)
	}
	return describe(answers)
}

// describe is the text of answers: the endpoints, and the addresses they saw.
func describe(answers []probe.Answer) string {
	var sources []string
	for _, a := range answers {
		sources = append(sources, a.Source.Addr().String())
	}
	slices.Sort(sources)
	return sees(namesOf(answers), slices.Compact(sources)...)
}

func namesOf(answers []probe.Answer) []string {
	var names []string
	for _, a := range answers {
		names = append(names, a.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func sees(names []string, sources ...string) string {
	verb := "see"
	if len(names) == 1 {
		verb = "sees"
	}
	return fmt.Sprintf("%s %s %s", strings.Join(names, " "), verb, strings.Join(sources, " "))
}

// uplink is what an endpoint sees of callers that mean something on its entry node only.
func uplink(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return netip.MustParseAddr("169.254.77.1")
	}
	return netip.MustParseAddr("fd77::1")
}

func loopback(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return netip.MustParseAddr("127.0.0.1")
	}
	return netip.IPv6Loopback()
}

// outside: a client of the world is answered by both endpoints at every node,
// and each sees the client's own address.
func (b *builder) outside() {
	for _, n := range b.Nodes {
		for _, f := range families() {
			b.both(asker{"client", b.Client}, published(n.Name, n.Addr(f)), b.Client.Addr(f), "web.2", "web.3")
		}
	}
}

// nodes: a node that asks itself is seen as the uplink, one that asks another as itself.
func (b *builder) nodes() {
	for _, n := range b.Nodes {
		for _, f := range families() {
			for _, a := range []netip.Addr{n.Addr(f), loopback(f)} {
				b.both(asker{n.Name, n}, published(n.Name, a), uplink(f), "web.2", "web.3")
			}
		}
	}
	for _, pair := range [][2]string{{"n1", "n2"}, {"n2", "n1"}, {"n2", "n3"}} {
		from, to := b.Node(pair[0]), b.Node(pair[1])
		for _, f := range families() {
			b.both(asker{from.Name, from}, published(to.Name, to.Addr(f)), from.Addr(f), "web.2", "web.3")
		}
	}
}

// bridged: a client on a node's own bridge has an address that web.3 has too.
func (b *builder) bridged() {
	n1 := b.Node("n1")
	for _, f := range families() {
		gateway := cluster.BridgeGateway4().Addr()
		if f == cluster.IPv6 {
			gateway = cluster.BridgeGateway6().Addr()
		}
		for _, a := range []netip.Addr{n1.Addr(f), gateway} {
			b.both(asker{"b1", b.Bridged}, published("n1", a), uplink(f), "web.2", "web.3")
		}
	}
}

// endpoints: one that asks its own node is seen as the uplink, at another node
// and in the world as its node.
func (b *builder) endpoints() {
	for _, e := range b.Endpoints {
		for _, f := range families() {
			for _, n := range b.Nodes {
				seen := e.Node.Addr(f)
				if n == e.Node {
					seen = uplink(f)
				}
				b.both(asker{e.Name, e}, published(n.Name, n.Addr(f)), seen, "web.2", "web.3")
			}
			world := netip.AddrPortFrom(b.Client.Addr(f), cluster.World)
			b.both(asker{e.Name, e}, target{"world " + world.Addr().String(), world}, e.Node.Addr(f), "world")
		}
	}
}

// eastWest: on a user network endpoints reach each other on every port and keep
// their addresses.
func (b *builder) eastWest() {
	for _, pair := range [][2]string{{"web.2", "web.3"}, {"web.3", "web.2"}} {
		from, to := b.Endpoint(pair[0]), b.Endpoint(pair[1])
		for _, f := range families() {
			for _, port := range []uint16{probe.TargetPort, probe.HiddenPort} {
				name := fmt.Sprintf("%s on blue, port %d, %s", to.Name, port, f)
				b.both(asker{from.Name, from}, target{name, netip.AddrPortFrom(to.On("blue", f), port)}, from.On("blue", f), to.Name)
			}
		}
	}
}
