package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

const (
	vxlanPort = 4789
	farPort   = 9    // where nobody listens
	framePort = 4500 // of frames' senders

	bridgedLinks = "slb" // begins the names of endpoints' interfaces on bridges
)

// wires are the devices that frames leave by and go to.
type wires struct {
	client, node, peer, uplink, sbox wire
}

func (w *mutated) wires(t *testing.T) wires {
	t.Helper()
	return wires{
		wireOf(t, w.Client, "eth0"), wireOf(t, w.node, "eth0"), wireOf(t, w.peer, "eth0"), wireOf(t, w.node, plan.UplinkHost), wireOf(t, w.ingress, "uplink"),
	}
}

// uplink is the node's address towards the ingress sandbox.
func (w *mutated) uplink(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return plan.Uplink4(1).Addr()
	}
	return plan.Uplink6(1).Addr()
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// forwarded are the trials of what passes from one device of the node to another.
func (w *mutated) forwarded(t *testing.T) []trial {
	t.Helper()
	c := w.wires(t)
	var all []trial
	for _, f := range bothFamilies() {
		all = append(all, w.wanderers(t, f)...)
		all = append(all, w.strangers(c, f)...)
	}
	return all
}

// wanderers are endpoints that send where the host would have to lead.
func (w *mutated) wanderers(t *testing.T, f cluster.Family) []trial {
	t.Helper()
	same, target, inner := w.of("nat-same"), w.of("nat-target"), w.of("internal-same")
	ours, hosts := w.door(t, "nat")
	inside, insideHosts := w.door(t, "internal")
	overs, overDoor := wireOf(t, w.over, ""), wireOf(t, w.overSandbox, plan.EndpointLinks)
	out, outHost := wireOf(t, w.overSandbox, "out"), wireOf(t, w.node, plan.WayOutHosts)
	world, client := at(w.Client.Addr(f), cluster.World), sniffed{w.at["client"]}
	b1, heardB1 := at(w.bridged(f), farPort), sniffed{w.at["b1"]}
	none := netip.MustParseAddr(map[cluster.Family]string{cluster.IPv4: "172.20.0.200", cluster.IPv6: "fd20::200"}[f])
	door0 := at(gateway(0, f), earPort)
	toWorld := func(from probe.Place) func(string) error { return after(client, udp(from, world), udp(w.node, b1)) }
	return []trial{
		{named("an endpoint to the host", f), message{send: udp(same, door0), mark: udp(same, at(gateway(0, otherFamily(f)), earPort)), at: w.ear}.try, arrives},
		{named("an endpoint to its sibling by way of the host", f), message{
			send: ours.frame(hosts, "udp", at(same.addr(f), framePort), at(target.addr(f), probe.HiddenPort)),
			mark: udp(same, at(w.node.Addr(f), publishedBy(0, markerTarget))), at: sniffed{target.sniffer},
		}.try, arrives},
		{named("an internal endpoint to the world", f), message{
			send: inside.frame(insideHosts, "udp", at(inner.addr(f), framePort), world),
			mark: after(w.ear, udp(inner, at(gateway(1, f), earPort)), udp(w.node, world)), at: client,
		}.try, lost},
		{named("an endpoint to another program's container", f), message{send: udp(same, b1), mark: toWorld(same), at: heardB1}.try, lost},
		{named("an overlay endpoint to another program's container", f), message{send: udp(w.over, b1), mark: toWorld(w.over), at: heardB1}.try, lost},
		{named("a broken packet of an endpoint to the world", f), message{
			send: ours.frame(hosts, probe.Reset, at(same.addr(f), 0), world),
			mark: udp(same, world), at: resets{w.at["client"]}, markAt: client,
		}.try, lost},
		{named("a broken packet out of an overlay's sandbox", f), message{
			send: out.frame(outHost, probe.Reset, at(w.over.addr(f), 0), world),
			mark: udp(w.over, world), at: resets{w.at["client"]}, markAt: client,
		}.try, lost},
		{named("a broken packet of an overlay endpoint to the world", f), message{
			send: overs.frame(overDoor, probe.Reset, at(w.over.addr(f), 0), world),
			mark: udp(w.over, world), at: resets{w.at["client"]}, markAt: client,
		}.try, lost},
		{named("an endpoint from an address that nobody has", f), message{
			send: ours.frame(hosts, "udp", at(none, framePort), door0), mark: udp(same, door0), at: w.ear,
		}.try, lost},
		{named("an endpoint's tunnel to the world", f), message{send: udpFrame(same, at(w.Client.Addr(f), vxlanPort)), mark: udp(same, world), at: client}.try, lost},
		{named("an overlay endpoint's tunnel to the world", f), message{send: udpFrame(w.over, at(w.Client.Addr(f), vxlanPort)), mark: udp(w.over, world), at: client}.try, lost},
	}
}

// door are both ends of an endpoint's way to the host.
func (w *mutated) door(t *testing.T, network string) (ours, hosts wire) {
	t.Helper()
	ours = wireOf(t, w.of(network+"-same"), bridgedLinks)
	return ours, wireOf(t, w.node, plan.BridgeLinks+ours.name[len(bridgedLinks):])
}

func (w *mutated) bridged(f cluster.Family) netip.Addr {
	if f == cluster.IPv4 {
		return w.Bridged.V4
	}
	return w.Bridged.V6
}

// strangers are machines on the node's link, and the ingress sandbox, that send what nobody asked for.
func (w *mutated) strangers(c wires, f cluster.Family) []trial {
	client, sbox := at(w.Client.Addr(f), framePort), at(w.sbox(f), framePort)
	peer, peers := at(w.peer.Addr(f), farPort), sniffed{w.at["peer"]}
	ear, uplink := at(w.node.Addr(f), earPort), at(w.uplink(f), earPort)
	ingress, sandbox := sniffed{w.at["ingress"]}, sniffed{w.at["over"]}
	stranger := func(to netip.AddrPort) func(string) error { return c.client.frame(c.node, "udp", client, to) }
	arp := 200
	return []trial{
		{named("a stranger to a free address of a bridge", f), func() string {
			arp--
			free := netip.MustParseAddr(map[cluster.Family]string{cluster.IPv4: fmt.Sprintf("172.20.0.%d", arp), cluster.IPv6: fmt.Sprintf("fd20::a%d", arp)}[f])
			wanted := frames{w.frames["nat-target"]}
			answer := message{send: stranger(at(free, probe.HiddenPort)), mark: stranger(at(w.node.Addr(f), publishedBy(0, markerTarget))), at: wanted}.try()
			if answer == lost && wanted.Heard(free.AsSlice()) {
				return "the host asks for it"
			}
			return answer
		}, lost},
		{named("a stranger to an overlay endpoint", f), message{
			send: stranger(at(w.over.addr(f), probe.HiddenPort)), mark: stranger(at(w.node.Addr(f), overMark)), at: sandbox,
		}.try, lost},
		{named("a stranger to the node's peer", f), message{send: stranger(peer), mark: after(w.ear, stranger(ear), udp(w.node, peer)), at: peers}.try, lost},
		{named("a stranger to the ingress sandbox", f), message{
			send: stranger(at(w.sbox(f), meshPort)), mark: stranger(at(w.node.Addr(f), meshPort)), at: ingress,
		}.try, lost},
		{named("the ingress sandbox to the world", f), message{
			send: udp(w.ingress, at(w.Client.Addr(f), farPort)), mark: after(w.ear, udp(w.ingress, uplink), udp(w.node, at(w.Client.Addr(f), farPort))),
			at: sniffed{w.at["client"]},
		}.try, lost},
		{named("the ingress sandbox to the node's loopback", f), message{
			send: c.sbox.frame(c.uplink, "udp", sbox, at(loopbackOf(f), earPort)), mark: c.sbox.frame(c.uplink, "udp", sbox, uplink), at: w.ear,
		}.try, lost},
	}
}

// sbox is the ingress sandbox's address.
func (w *mutated) sbox(f cluster.Family) netip.Addr { return w.uplink(f).Next() }

// captured are the trials of ports that are published, but not at link-local addresses.
func (w *mutated) captured(t *testing.T) []trial {
	t.Helper()
	c, f := w.wires(t), cluster.IPv6
	port := publishedBy(0, probe.TargetPort)
	node, client := w.node.Addr(f), w.Client.Addr(f)
	try := func(from, to netip.Addr) func() string {
		frame := func(port uint16) func(string) error {
			return c.client.frame(c.node, "udp", at(from, framePort), at(to, port))
		}
		return message{send: frame(port), mark: frame(earPort), at: w.ear}.try
	}
	ours, hosts := w.door(t, "nat")
	door := at(gateway(0, f), earPort)
	return []trial{
		{"an endpoint from its link-local address", message{
			send: ours.frame(hosts, "udp", at(ours.link, framePort), door), mark: udp(ours.at, door), at: w.ear,
		}.try, arrives},
		{"a process's own port that is published too, from a link-local address", try(c.client.link, node), arrives},
		{"a process's own port that is published too, at a link-local address", try(client, c.node.link), arrives},
	}
}

// vxlan is a frame of the ingress network's with a broadcast that carries text, as a tunnel sends it.
func vxlan(text string) string {
	all, from := netip.AddrFrom4([4]byte{255, 255, 255, 255}), netip.AddrFrom4([4]byte{198, 18, 0, 9})
	inner := probe.Frame{To: unicastToAll(), Packet: probe.Packet{Proto: "udp", Source: at(from, framePort), Dest: at(all, farPort), Payload: text}}
	const ingressVNI = 1<<20 + 1
	head := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, ingressVNI<<8)
	return string(append(head, inner.Bytes([]byte{2, 0, 0, 0, 0, 9})...))
}

func unicastToAll() []byte { return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// udpFrame sends a tunnel's frame as a process does.
func udpFrame(from probe.Place, to netip.AddrPort) func(text string) error {
	return func(text string) error { return udp(from, to)(vxlan(text)) }
}

// tunnelled are the trials of the tunnels between nodes, which are of the underlay's family.
func (w *mutated) tunnelled(t *testing.T) []trial {
	t.Helper()
	c, f := w.wires(t), w.underlay
	ingress, peers := sniffed{w.at["ingress"]}, sniffed{w.at["peer"]}
	client, peer, node := at(w.Client.Addr(f), framePort), w.peer.Addr(f), w.node.Addr(f)
	frame := func(from netip.AddrPort, to netip.Addr) func(string) error {
		return func(text string) error { return c.client.frame(c.node, "udp", from, at(to, vxlanPort))(vxlan(text)) }
	}
	enters := func(from netip.AddrPort, to netip.Addr) func() string {
		return message{send: frame(from, to), mark: c.client.frame(c.node, "udp", client, at(node, meshPort)), at: ingress}.try
	}
	leaves := func(from probe.Place) func() string {
		return message{send: udpFrame(from, at(peer, vxlanPort)), mark: udp(from, at(peer, farPort)), at: peers}.try
	}
	return []trial{
		{named("a peer's tunnel", f), enters(at(peer, framePort), node), arrives},
		{named("a stranger's tunnel", f), enters(client, node), lost},
		{named("a peer's tunnel to another address of the node", f), enters(at(peer, framePort), second(f).Addr()), lost},
		{named("a process's tunnel to a peer", f), leaves(w.node), lost},
		{named("another program's container's tunnel to a peer", f), leaves(w.Bridged), lost},
		{named("tracked frames from a peer", f), func() string { return w.tracked(peer) }, "no"},
		{named("tracked frames to a peer", f), func() string { return w.tracked(node) }, "no"},
	}
}

// tracked sends something through the tunnel and back, and looks for a connection of frames from
// an address in the node's conntrack.
func (w *mutated) tracked(from netip.Addr) string {
	family := netlink.InetFamily(unix.AF_INET)
	if from.Is6() {
		family = unix.AF_INET6
	}
	a, err := probe.Client{Place: w.Client, Wait: patience}.Ask(at(w.peer.Addr(w.underlay), meshPort), 1)
	if err != nil || a.Name != w.mesh.name {
		return fmt.Sprintf("%s answers, %v", a.Name, err)
	}
	answer := "no"
	err = w.node.Do(func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		for _, flow := range flows {
			if source, ok := netip.AddrFromSlice(flow.Forward.SrcIP); ok && flow.Forward.DstPort == vxlanPort && source.Unmap() == from {
				answer = "yes"
			}
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	return answer
}

func otherFamily(f cluster.Family) cluster.Family {
	if f == cluster.IPv4 {
		return cluster.IPv6
	}
	return cluster.IPv4
}
