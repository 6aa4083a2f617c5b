package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// dials are the trials that dial a port of the node, or the world.
func (w *mutated) dials(t *testing.T) []trial {
	t.Helper()
	var all []trial
	for _, f := range bothFamilies() {
		for _, proto := range protocols() {
			for _, d := range w.dialledPorts(f) {
				all = append(all, trial{named(d.name, f, proto), func() string { return w.comes(d, f, proto) }, d.want})
			}
			for _, from := range []*resident{w.of("nat-same"), w.over} {
				all = append(all, w.wayOut(from, f, proto))
			}
		}
		all = append(all, w.answered(f))
	}
	return all
}

// dialled is a port that is dialled, and what comes of it.
type dialled struct {
	from probe.Client
	to   netip.AddrPort
	who  *resident
	port uint16 // of who
	name string
	want string
}

// comes dials, and gives the address that the first packet comes from. What a marker needs is none
// of what the packet does: it goes to the node, and from there to the endpoint.
func (w *mutated) comes(d dialled, f cluster.Family, proto string) string {
	d.from.Wait = patience
	who := at(d.who.addr(f), markerTarget)
	onward := func() error { return marker(w.node, who, d.who) }
	if d.who == w.over { // the node's way there is by ports alone: of one kind where the other is tried
		known := at(w.node.Addr(f), overMark)
		if d.port == probe.TargetPort {
			known = at(w.node.Addr(f), overFirst+1)
		}
		onward = func() error { return marker(d.from.Place, known, d.who) }
	}
	return question{
		begin: func() (*probe.Attempt, error) { return d.from.Begin(proto, d.to) },
		mark: func() error {
			if err := marks(w.ear, udp(d.from.Place, at(w.node.Addr(f), earPort))); err != nil {
				return err
			}
			return onward()
		},
		proto: proto, family: f, who: d.who, port: d.port, oneWay: true,
	}.try()
}

// dialledPorts are what is dialled over one family.
func (w *mutated) dialledPorts(f cluster.Family) []dialled {
	node, other, loop := w.node.Addr(f), second(f).Addr(), loopbackOf(f)
	outside, host := probe.Client{Place: w.Client}, probe.Client{Place: w.node}
	friend := probe.Client{Place: w.Client, Local: netip.AddrPortFrom(welcome(f).Addr(), 0)}
	neighbour, sibling := probe.Client{Place: w.Bridged}, probe.Client{Place: w.of("nat-same")}
	ranged, limited := w.of("ranged"), w.of("limited")
	from := func(a netip.Addr) string { return "comes from " + a.String() }
	client, between := from(w.Client.Addr(f)), gateway(len(kinds()), f)
	uplink, way := from(w.uplink(f)), from(wayOutHost(f))
	return []dialled{
		{outside, at(node, rangedFirst+5), ranged, rangedFirst + 5, "a port of a range", client},
		{outside, at(other, chosenFirst+5), ranged, chosenFirst + 5, "a port of a range at one address", client},
		{outside, at(node, limitedPort), limited, probe.TargetPort, "a port with sources, from another", lost},
		{friend, at(node, limitedPort), limited, probe.TargetPort, "a port with sources, from one", from(friend.Local.Addr())},
		{outside, at(other, limitedAt), limited, probe.TargetPort, "a port with sources at one address, from another", lost},
		{friend, at(other, limitedAt), limited, probe.TargetPort, "a port with sources at one address, from one", from(friend.Local.Addr())},
		{outside, at(node, publishedBy(0, probe.TargetPort)), w.of("nat-target"), probe.TargetPort, "a bridge's port", client},
		{outside, at(node, foreignPort), w.of("internal-target"), probe.TargetPort, "a port that another program leads to an internal endpoint", lost},
		{host, at(node, publishedBy(0, probe.TargetPort)), w.of("nat-target"), probe.TargetPort, "a bridge's port, host", from(node)},
		{host, at(loop, publishedBy(0, probe.TargetPort)), w.of("nat-target"), probe.TargetPort, "a bridge's port, host by loopback", from(gateway(0, f))},
		{sibling, at(node, publishedBy(0, probe.TargetPort)), w.of("nat-target"), probe.TargetPort, "a bridge's port, an endpoint of the bridge", from(gateway(0, f))},
		{outside, at(node, overPort), w.over, probe.TargetPort, "an overlay endpoint's port", client},
		{outside, at(node, overFirst+2), w.over, overFirst + 2, "an overlay endpoint's range", client},
		{host, at(loop, overPort), w.over, probe.TargetPort, "an overlay endpoint's port, host by loopback", way},
		{host, at(between, overPort), w.over, probe.TargetPort, "an overlay endpoint's port, host by a bridge's address", way},
		{host, at(between, publishedBy(0, probe.TargetPort)), w.of("nat-target"), probe.TargetPort, "a bridge's port, host by another bridge's address", from(gateway(0, f))},
		{outside, at(node, meshPort), w.mesh, probe.TargetPort, "a mesh port", client},
		{outside, at(other, meshAt), w.mesh, addressTarget, "a mesh port at one address", client},
		{host, at(loop, meshPort), w.mesh, probe.TargetPort, "a mesh port, host by loopback", uplink},
		{neighbour, at(node, meshPort), w.mesh, probe.TargetPort, "a mesh port, another program's container", uplink},
	}
}

// wayOut has an endpoint dial the world.
func (w *mutated) wayOut(from *resident, f cluster.Family, proto string) trial {
	to := netip.AddrPortFrom(w.Client.Addr(f), cluster.World)
	world := &resident{Space: w.Client.Space, name: "world", sniffer: w.at["client"]}
	q := question{
		begin: func() (*probe.Attempt, error) { return probe.Client{Place: from, Wait: patience}.Begin(proto, to) },
		mark:  func() error { return marker(from, to, world) },
		proto: proto, family: f, who: world, port: cluster.World, oneWay: true,
	}
	return trial{named(from.name+" dials the world", f, proto), q.try, "comes from " + w.node.Addr(f).String()}
}

// answered has the world answer an endpoint's datagram.
func (w *mutated) answered(f cluster.Family) trial {
	same, world := w.of("nat-same"), netip.AddrPortFrom(w.Client.Addr(f), farPort)
	answer := func(text string) error {
		if err := udp(same, world)(text + " asks"); err != nil {
			return err
		}
		asked, ok := w.at["client"].Await(patience, func(p probe.Packet) bool { return p.Payload == text+" asks" })
		if !ok {
			return fmt.Errorf("nothing comes to %s", world)
		}
		return probe.Client{Place: w.Client, Local: world, Wait: patience}.Tell(asked.Source, text)
	}
	return trial{named("the world's answer to an endpoint", f), message{
		send: answer, at: sniffed{same.sniffer},
		mark: after(w.ear, udp(w.Client, at(w.node.Addr(f), earPort)), udp(w.node, at(same.addr(f), markerTarget))),
	}.try, arrives}
}

// wayOutHost is the host's address on the ways out of overlays.
func wayOutHost(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return plan.WayOut4()
	}
	return plan.WayOut6()
}
