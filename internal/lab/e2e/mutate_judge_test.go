package e2e

import (
	"net/netip"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// twice hears what comes to a namespace by two devices, one after the other.
type twice struct{ *probe.Listener }

func (l twice) heard(text string) bool { return l.Count([]byte(text)) > 1 }

// judged are the trials of what asks the host's own firewall, which denies deniedPort.
func (w *mutated) judged(t *testing.T) []trial {
	t.Helper()
	c := w.wires(t)
	out, in := wire{at: w.node, name: plan.Judge}, wireOf(t, w.node, plan.Judged)
	var all []trial
	for _, f := range bothFamilies() {
		for _, proto := range protocols() {
			for _, d := range w.denied(f) {
				all = append(all, trial{named(d.name, f, proto), func() string { return w.comes(d, f, proto) }, d.want})
			}
		}
		all = append(all, trial{named("the middle of a connection to a port", f), func() string { return w.middleOf(f) }, lost})
		all = append(all, w.hosts(c, out, in, f)...)
	}
	return all
}

// denied dials the port that the host denies.
func (w *mutated) denied(f cluster.Family) []dialled {
	who, to := w.of("routed-target"), at(w.node.Addr(f), deniedPort())
	from := func(a netip.Addr) string { return "comes from " + a.String() }
	by := gateway(kindOf(matrix.Routed), f)
	return []dialled{
		{probe.Client{Place: w.Client}, to, who, probe.TargetPort, "a denied port, from outside", lost},
		{probe.Client{Place: w.node}, to, who, probe.TargetPort, "a denied port, host", from(w.node.Addr(f))},
		{probe.Client{Place: w.of("other")}, to, who, probe.TargetPort, "a denied port, an endpoint of another bridge", from(by)},
		{probe.Client{Place: w.over}, to, who, probe.TargetPort, "a denied port, an overlay endpoint", from(by)},
	}
}

// middleOf sends the middle of a connection that nobody opened.
func (w *mutated) middleOf(f cluster.Family) string {
	who := w.of("nat-target")
	return question{
		begin: func() (*probe.Attempt, error) {
			return probe.Unanswered(), w.frame(probe.Packet{Proto: probe.Ack, Dest: at(w.node.Addr(f), publishedBy(0, probe.TargetPort))})
		},
		mark: func() error {
			return marker(w.Client, at(w.node.Addr(f), publishedBy(0, markerTarget)), who)
		},
		proto: probe.Ack, family: f, who: who, port: probe.TargetPort, oneWay: true,
	}.try()
}

// hosts are packets for the host's own process, which has a port that is published too.
func (w *mutated) hosts(c wires, out, in wire, f cluster.Family) []trial {
	port := publishedBy(0, probe.TargetPort)
	client, node := at(w.Client.Addr(f), framePort), w.node.Addr(f)
	all := map[cluster.Family]string{cluster.IPv4: "192.168.50.255", cluster.IPv6: "ff02::1"}[f]
	stranger := func(to netip.Addr, port uint16) func(string) error {
		return c.client.frame(c.node, "udp", client, at(to, port))
	}
	round := map[cluster.Family]string{cluster.IPv4: "169.254.79.2", cluster.IPv6: "fd79::2"}[f]
	copied := func(port uint16) func(string) error {
		return out.frame(in, "udp", client, at(node, port))
	}
	return []trial{
		{named("a process's own port that is published too", f), message{send: stranger(node, port), mark: stranger(node, earPort), at: w.ear}.try, lost},
		{named("a process's own port that is published too, to all", f), message{
			send: stranger(netip.MustParseAddr(all), port), mark: stranger(netip.MustParseAddr(all), earPort), at: w.ear,
		}.try, arrives},
		{named("an answer to a process's own port that is published too", f), message{
			send: func(text string) error {
				asked := at(client.Addr(), framePort+1) // from the other port there is a flow to the endpoint
				if err := w.ear.tell(1, asked, "a question"); err != nil {
					return err
				}
				return c.client.frame(c.node, "udp", asked, at(node, port))(text)
			},
			mark: stranger(node, earPort), at: w.ear,
		}.try, arrives},
		{named("a copy for a port that nobody publishes", f), message{send: copied(earPort), mark: stranger(node, earPort), at: w.ear}.try, lost},
		{named("a stranger to where copies go", f), message{
			send: stranger(netip.MustParseAddr(round), earPort), mark: stranger(node, earPort), at: twice{w.frames["nat-host"]}, markAt: w.ear,
		}.try, lost},
	}
}
