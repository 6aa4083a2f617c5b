package e2e

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// onBridge is who sends frames on a bridge, and whom it pretends to be.
type onBridge struct {
	network     string
	wire        wire
	own, others *resident
	other       net.HardwareAddr
}

// portFrames are the trials of frames between endpoints, on each kind of bridge.
func (w *mutated) portFrames(t *testing.T) []trial {
	t.Helper()
	var all []trial
	for _, k := range kinds() {
		b := onBridge{network: k.name, own: w.of(k.name + "-same"), others: w.of(k.name + "-target")}
		b.wire = wireOf(t, b.own, bridgedLinks)
		b.other = wireOf(t, b.others, bridgedLinks).mac
		for _, frame := range b.spoken() {
			all = append(all, trial{k.name + ", " + frame.name, func() string { return w.passes(t, b, frame) }, frame.want})
		}
		for _, f := range bothFamilies() {
			all = append(all, trial{k.name + ", " + named("the host to an endpoint", f), func() string { return w.reached(b, f) }, arrives})
		}
		all = append(all, trial{k.name + ", " + learned, func() string { return w.learns(t, b) }, "no"})
	}
	return all
}

const learned = "frame: the bridge learns another's hardware address from one to a reserved address"

type spoken struct {
	name   string
	bytes  []byte
	want   string
	tagged bool
}

// spoken are frames of one endpoint to all.
func (b onBridge) spoken() []spoken {
	const solicits, advertises, leads, redirects = 135, 136, 134, 137
	mac, other := b.wire.mac, b.other
	own4, own6 := b.own.addr(cluster.IPv4), b.own.addr(cluster.IPv6)
	other4, other6 := b.others.addr(cluster.IPv4), b.others.addr(cluster.IPv6)
	link, none := b.wire.link, netip.IPv6Unspecified()
	tagged := probe.Ether(mac, unix.ETH_P_8021Q, []byte{0, 5}, probe.Broadcast(mac, own4)[12:])
	return []spoken{
		{"frame: its own, ipv4", probe.Broadcast(mac, own4), arrives, false},
		{"frame: its own, ipv6", probe.Discovery(mac, own6, solicits, other6), arrives, false},
		{"frame: its own, from no address, ipv6", probe.Discovery(mac, none, solicits, own6), arrives, false},
		{"frame: its own ARP", probe.ARP(mac, mac, own4), arrives, false},
		{"frame: its own ARP from no address", probe.ARP(mac, mac, netip.IPv4Unspecified()), arrives, false},
		{"frame: its own advertisement", probe.Discovery(mac, link, advertises, own6), arrives, false},
		{"frame: another's hardware address, ipv4", probe.Broadcast(other, own4), lost, false},
		{"frame: another's hardware address, ipv6", probe.Discovery(other, own6, solicits, own6), lost, false},
		{"frame: another's address, ipv4", probe.Broadcast(mac, other4), lost, false},
		{"frame: another's address, ipv6", probe.Discovery(mac, other6, solicits, own6), lost, false},
		{"frame: ARP by another's hardware address", probe.ARP(other, mac, own4), lost, false},
		{"frame: ARP that gives another hardware address", probe.ARP(mac, other, own4), lost, false},
		{"frame: ARP that gives another's address", probe.ARP(mac, mac, other4), lost, false},
		{"frame: advertisement of another's address", probe.Discovery(mac, link, advertises, other6), lost, false},
		{"frame: router's advertisement", probe.Discovery(mac, link, leads, link), lost, false},
		{"frame: redirect", probe.Discovery(mac, link, redirects, other6), lost, false},
		{"frame: a VLAN's", tagged, lost, true},
		{"frame: neither IP nor ARP", probe.Ether(mac, 0x88cc, make([]byte, 50)), lost, false},
	}
}

// passes sends the frame, and after it packets of both families to the host. Somebody hears it or not.
func (w *mutated) passes(t *testing.T, b onBridge, frame spoken) string {
	t.Helper()
	if err := probe.SendFrame(b.own, b.wire.name, frame.bytes); err != nil {
		return err.Error()
	}
	if err := w.markFrame(b); err != nil {
		return err.Error()
	}
	body := frame.bytes[12:]
	if frame.tagged {
		body = body[4:] // the tag is not part of what is heard
	}
	for _, l := range []*probe.Listener{w.frames[b.network+"-host"], w.frames[b.network+"-target"]} {
		if !l.Heard(body) {
			continue
		}
		if frame.want == lost {
			w.heal(t, b)
		}
		return arrives
	}
	return lost
}

// heal makes everybody forget what a forged frame said.
func (w *mutated) heal(t *testing.T, b onBridge) {
	t.Helper()
	ours, host := w.door(t, b.network)
	theirs := wireOf(t, b.others, bridgedLinks)
	for who, four := range map[*wire]netip.Addr{&ours: b.own.addr(cluster.IPv4), &theirs: b.others.addr(cluster.IPv4)} { // the bridge learns
		if err := probe.SendFrame(who.at, who.name, probe.Broadcast(who.mac, four)); err != nil {
			t.Fatal(err)
		}
	}
	for link, place := range map[*wire]*space.Space{&host: w.node.Space, &ours: b.own.Space, &theirs: b.others.Space} {
		said(t, place, "ip", "neigh", "flush", "dev", link.name)
	}
}

// markFrame sends packets to the host over either family until one has come: a rule may be away
// that one of them needs.
func (w *mutated) markFrame(b onBridge) error {
	i := kindIndex(b.network)
	host := frames{w.frames[b.network+"-host"]}
	return marks(host, func(text string) error {
		for _, f := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			if err := udp(b.own, at(gateway(i, f), earPort))(text); err != nil {
				return err
			}
		}
		return nil
	})
}

// reached has the host send to an endpoint; the endpoint's own packets to the host come after that.
func (w *mutated) reached(b onBridge, f cluster.Family) string {
	const before, text = "hardware addresses become known", "the packet"
	to, theirs := udp(w.node, at(b.others.addr(f), farPort)), onBridge{network: b.network, own: b.others}
	for _, say := range []string{before, text} {
		if err := to(say); err != nil {
			return err.Error()
		}
		if err := w.markFrame(theirs); err != nil {
			return err.Error()
		}
	}
	if w.frames[b.network+"-target"].Heard([]byte(text)) {
		return arrives
	}
	return lost
}

func kindIndex(name string) int {
	for i, k := range kinds() {
		if k.name == name {
			return i
		}
	}
	panic("no kind of network is called " + name)
}

// learns sends what only the bridge itself would take, and asks it where the other endpoint is.
func (w *mutated) learns(t *testing.T, b onBridge) string {
	t.Helper()
	reserved := probe.Broadcast(b.other, b.own.addr(cluster.IPv4))
	copy(reserved, []byte{0x01, 0x80, 0xc2, 0, 0, 3})
	honest := onBridge{network: b.network, own: b.others}
	err := w.markFrame(honest) // it speaks: the bridge knows it
	where := w.behind(t, w.bridges[b.network], b.other)
	if err == nil {
		err = probe.SendFrame(b.own, b.wire.name, reserved)
	}
	if err == nil {
		err = w.markFrame(b)
	}
	if err != nil {
		return err.Error()
	}
	defer func() {
		if err := w.markFrame(honest); err != nil {
			t.Error(err)
		}
	}()
	if now := w.behind(t, w.bridges[b.network], b.other); now != where {
		return "yes"
	}
	return "no"
}

// behind is the bridge's port that it looks for a hardware address at.
func (w *mutated) behind(t *testing.T, in *space.Space, mac net.HardwareAddr) string {
	t.Helper()
	text, err := in.Run(context.Background(), "bridge", "fdb", "show", "br", plan.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == mac.String() && !strings.Contains(line, "permanent") {
			return f[2]
		}
	}
	return ""
}
