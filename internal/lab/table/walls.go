package table

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// onePort: one port of one client towards several nodes at once, in several
// orders: whichever flow comes later, neither kills the other.
func (b *builder) onePort() {
	local := uint16(44000)
	for _, f := range families() {
		for _, order := range []string{"1 3", "1 2", "2 1", "3 2 1", "1 2 3", "2 3 1", "2 1 3"} {
			var to []netip.AddrPort
			for digit := range strings.FieldsSeq(order) {
				to = append(to, netip.AddrPortFrom(b.Node("n"+digit).Addr(f), cluster.Published))
			}
			local++
			c := b.client(asker{"client", b.Client})
			c.Local = netip.AddrPortFrom(b.Client.Addr(f), local)
			name := "one port to nodes " + order + ", " + string(f)
			want := fmt.Sprintf("all answer and see %s", c.Local.Addr())
			b.add(Check{From: "client", To: name, How: "tcp", Want: want, try: all(2*len(to), func() ([]probe.Answer, error) { return c.GetFromOnePort(to) })})
			b.add(Check{From: "client", To: name, How: "udp", Want: want, try: all(len(to), func() ([]probe.Answer, error) { return c.AskFromOnePort(to) })})
		}
	}
}

// all says whether n answers came and whom they saw: which endpoint each flow
// meets is the balancer's business.
func all(n int, ask func() ([]probe.Answer, error)) func() string {
	return func() string {
		answers, err := ask()
		if err != nil {
			return fmt.Sprintf("%s after %d answers", probe.Outcome(err), len(answers))
		}
		if len(answers) != n {
			return fmt.Sprintf("%d answers", len(answers))
		}
		_, sources, _ := strings.Cut(describe(answers), " see")
		return "all answer and see" + strings.TrimPrefix(sources, "s")
	}
}

// large: 5 MB each way, and a datagram that does not fit the tunnel.
func (b *builder) large() {
	for _, n := range b.Nodes {
		for _, f := range families() {
			to, c := published(n.Name, n.Addr(f)), b.client(asker{"client", b.Client})
			b.add(Check{From: "client", To: to.name, How: "5 MB down", Want: "5242880 bytes", try: func() string {
				got, err := c.Download(to.at)
				return bytesOr(got, err)
			}})
			b.add(Check{From: "client", To: to.name, How: "5 MB up", Want: "5242880 bytes", try: func() string {
				got, err := c.Upload(to.at, probe.BigSize)
				return bytesOr(got, err)
			}})
			b.add(Check{From: "client", To: to.name, How: "path MTU", Want: "told, then fits", try: func() string { return pathMTU(c, to.at) }})
		}
	}
}

func bytesOr(n int, err error) string {
	if err != nil {
		return fmt.Sprintf("%s after %d bytes", probe.Outcome(err), n)
	}
	return fmt.Sprintf("%d bytes", n)
}

func pathMTU(c probe.Client, to netip.AddrPort) string {
	told, fits, err := c.PathMTU(to)
	text := "not told"
	if told {
		text = "told"
	}
	switch {
	case err != nil:
		return text + ", then " + probe.Outcome(err)
	case fits:
		return text + ", then fits"
	default:
		return text + ", then cut"
	}
}

// refusals: what nobody serves is refused at once, by the node or by the mesh.
func (b *builder) refusals() {
	outsider := asker{"client", b.Client}
	for _, n := range b.Nodes {
		for _, f := range families() {
			idle := netip.AddrPortFrom(n.Addr(f), cluster.Idle)
			name := fmt.Sprintf("%s %s, service without endpoint", n.Name, n.Addr(f))
			b.refused(outsider, target{name, idle})
			local := netip.AddrPortFrom(loopback(f), cluster.Idle)
			b.refused(asker{n.Name, n}, target{fmt.Sprintf("%s %s, service without endpoint", n.Name, loopback(f)), local})
			nobody := netip.AddrPortFrom(n.Addr(f), cluster.Nobodys)
			c := b.client(outsider)
			b.add(Check{
				From: "client", To: fmt.Sprintf("%s %s, nothing published", n.Name, n.Addr(f)), How: "tcp", Want: "refused",
				try: func() string { _, err := c.Get(nobody); return probe.Outcome(err) },
			})
		}
	}
}

func (b *builder) refused(a asker, to target) {
	c := b.client(a)
	b.add(Check{From: a.name, To: to.name, How: "tcp", Want: "refused", try: func() string { _, err := c.Get(to.at); return probe.Outcome(err) }})
	b.add(Check{From: a.name, To: to.name, How: "udp", Want: "refused", try: func() string { _, err := c.Ask(to.at, 1); return probe.Outcome(err) }})
}

// walls: an endpoint's addresses answer nobody but who they are for.
func (b *builder) walls() {
	two, three, api := b.Endpoint("web.2"), b.Endpoint("web.3"), b.Endpoint("api.3")
	for _, f := range families() {
		ingress := target{"web.2 on ingress, " + string(f), netip.AddrPortFrom(two.On("ingress", f), probe.TargetPort)}
		blue := target{"web.2 on blue, " + string(f), netip.AddrPortFrom(two.On("blue", f), probe.TargetPort)}
		green := target{"api.3 on green, " + string(f), netip.AddrPortFrom(api.On("green", f), probe.TargetPort)}
		for _, who := range []asker{{"client", b.Client}, {"n1", b.Node("n1")}, {"n2", b.Node("n2")}, {"web.3", three}, {"api.3", api}} {
			b.wall(who, ingress)
			if who.name != "web.3" {
				b.wall(who, blue)
			}
		}
		b.wall(asker{"web.3", three}, green)
		b.wall(asker{"web.2", two}, green)
		b.hidden(two, f)
	}
}

// wall adds cells where any answer is wrong. How a packet ends depends on
// which wall it meets first, and does not matter.
func (b *builder) wall(a asker, to target) {
	c := b.client(a)
	c.Wait = silent
	none := func(err error) string {
		if err == nil {
			return "answered"
		}
		switch o := probe.Outcome(err); o {
		case "silence", "refused", "unreachable", "reset":
			return "no answer"
		default:
			return o
		}
	}
	b.add(Check{From: a.name, To: to.name, How: "tcp", Want: "no answer", silent: true, try: func() string { _, err := c.Get(to.at); return none(err) }})
	b.add(Check{From: a.name, To: to.name, How: "udp", Want: "no answer", silent: true, try: func() string { _, err := c.Ask(to.at, 1); return none(err) }})
}

// hidden: not even the entry node's load balancer may speak to a port that is not
// published. Its own firewall would hide an answer, so the endpoint is asked
// what it heard.
func (b *builder) hidden(e *cluster.Endpoint, f cluster.Family) {
	to := netip.AddrPortFrom(e.On("ingress", f), probe.HiddenPort)
	inside := netip.AddrPortFrom(loopback(f), probe.TargetPort)
	from := asker{plan.IngressSandbox + " of n1", b.Node("n1").Ingress}
	name := fmt.Sprintf("%s on ingress, port not published, %s", e.Name, f)
	b.add(Check{From: from.name, To: name, How: "udp", Want: "not heard", silent: true, try: func() string {
		token := rand.Text()
		if err := b.client(from).Tell(to, token); err != nil {
			return probe.Outcome(err)
		}
		time.Sleep(silent)
		all, err := probe.Client{Place: e, Wait: b.wait}.Heard(inside)
		switch {
		case err != nil:
			return probe.Outcome(err)
		case slices.Contains(all, token):
			return "heard"
		default:
			return "not heard"
		}
	}})
}
