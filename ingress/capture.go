package ingress

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// heldBy is who has a published port on this host.
func heldBy(held []mesh.HeldPort) map[mesh.PublishedPort]string {
	by := make(map[mesh.PublishedPort]string, len(held))
	for _, h := range held {
		by[h.Port()] = h.By
	}
	return by
}

// dialled is what a port is told by where only one can be it.
func dialled(p mesh.PublishedPort) mesh.PublishedPort {
	return mesh.PublishedPort{Addr: p.Addr, Proto: p.Proto, Published: p.Published}
}

// capture puts the published ports into the host's sets: the one thing that
// makes a port answer, applied last. A port that somebody else on the host has stays
// theirs; all behind it is built all the same, so that the set alone is missing.
func (b *builder) capture(fronts []Front) {
	table := b.host.Table("inet")
	published := table.Set(plan.Published, plan.FieldProto, plan.FieldPort)
	at4 := table.Map(plan.PublishedAt4, plan.FieldIPv4, plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	at6 := table.Map(plan.PublishedAt6, plan.FieldIPv6, plan.FieldIPv6, plan.FieldProto, plan.FieldPort)
	published.Elements = slices.Grow(published.Elements, len(fronts))
	for _, f := range fronts {
		if by, held := b.held[dialled(f.Port)]; held {
			b.plan.Leave(plan.PortHeld, f.String(), "held by "+by+" on this node: stop it or publish another port")
			continue
		}
		proto, port := string(f.Port.Proto), strconv.Itoa(int(f.Port.Published))
		ports := plan.Ports{Addr: f.Port.Addr, Proto: proto, First: f.Port.Published}
		switch a := f.Port.Addr; {
		case !a.IsValid():
			published.Add(proto, port)
		case a.Is4():
			at4.Put(f.At4.String(), a.String(), proto, port)
		default:
			at6.Put(f.At6.String(), a.String(), proto, port)
		}
		b.host.Judge(ports)
		if from := f.Port.Sources.Prefixes(); len(from) > 0 {
			table.AdmitOnly(ports, from)
		}
	}
}

// hostFirewall are the host's fixed chains for the mesh.
func (b *builder) hostFirewall() {
	table := b.host.Table("inet")
	uplink4, uplink6 := plan.Uplink4(plan.UplinkSandboxNumber), plan.Uplink6(plan.UplinkSandboxNumber)
	// After the node's own ports (package bridge).
	table.Chain("capture", "").Rule(
		"dnat ip to ip daddr . meta l4proto . th dport map @published_at4",
		"dnat ip6 to ip6 daddr . meta l4proto . th dport map @published_at6",
		fmt.Sprintf("meta nfproto ipv4 meta l4proto . th dport @published dnat ip to %s", uplink4.Addr()),
		fmt.Sprintf("meta nfproto ipv6 meta l4proto . th dport @published dnat ip6 to %s", uplink6.Addr()),
	)
	// The client's address is kept, but for those that mean something on this node only.
	table.Chain("postrouting", "").Rule(
		fmt.Sprintf(`oifname "%s" fib saddr type local masquerade`, plan.UplinkHost),
		fmt.Sprintf(`oifname "%s" iifname @own_bridges masquerade`, plan.UplinkHost),
	)
	table.Chain("forward", "").Rule(
		fmt.Sprintf(`iifname "%s" ct state new,invalid counter drop`, plan.UplinkHost), // the sandbox begins nothing
	)
	b.host.Pass(plan.UplinkHost)
	b.guards(table)
}

// guards keep the uplink's addresses, the loopback addresses and the tunnel port
// from everybody who has no business there.
func (b *builder) guards(table *plan.Table) {
	table.Chain("fence", "type filter hook prerouting priority raw; policy accept;").Rule(
		fmt.Sprintf(`iifname != "%s" ip daddr %s counter drop`, plan.UplinkHost, plan.Uplink4(0).Masked()),
		fmt.Sprintf(`iifname != "%s" ip6 daddr %s counter drop`, plan.UplinkHost, plan.Uplink6(0).Masked()),
	)
	table.Chain("guard", "").Rule(
		fmt.Sprintf(`iifname "%s" ip daddr 127.0.0.0/8 ct state new counter drop`, plan.UplinkHost),
		fmt.Sprintf(`iifname "%s" ip6 daddr ::1 ct state new counter drop`, plan.UplinkHost),
	)
	peers4 := table.Set("peers4", plan.FieldIPv4)
	peers6 := table.Set("peers6", plan.FieldIPv6)
	for _, node := range b.snap.Nodes {
		if node.ID == b.self.ID {
			continue
		}
		if node.Addr.Is4() {
			peers4.Add(node.Addr.String())
		} else {
			peers6.Add(node.Addr.String())
		}
	}
	b.tunnels(table)
}

// tunnels lets frames of the mesh in from the cluster's nodes only, and only to the address that
// the nodes send them to: the kernel's tunnels listen on all, and what a node lets its endpoints
// send to others of ours leaves by masquerade as if the node had sent it.
func (b *builder) tunnels(table *plan.Table) {
	frame := fmt.Sprintf("udp dport %d %s", b.self.VXLANPort, ourVNI)
	// A frame is one connection with those of its flow in the same direction, as the
	// source port is the flow's hash: two more entries on either node for each
	// flow, which nothing asks for.
	from, to, here := "ip saddr @peers4 ip daddr", "ip daddr @peers4 ip saddr", "ip daddr"
	if b.self.Addr.Is6() {
		from, to, here = "ip6 saddr @peers6 ip6 daddr", "ip6 daddr @peers6 ip6 saddr", "ip6 daddr"
	}
	table.Chain("tunnels", "type filter hook input priority filter; policy accept;").Rule(
		frame+" meta nfproto ipv4 ip saddr != @peers4 counter drop",
		frame+" meta nfproto ipv6 ip6 saddr != @peers6 counter drop",
		fmt.Sprintf("%s %s != %s counter drop", frame, here, b.self.Addr),
	)
	table.Chain("fence", "").Rule(fmt.Sprintf("%s %s %s notrack", frame, from, b.self.Addr))
	table.Chain("untracked", "type filter hook output priority raw; policy accept;").Rule(
		fmt.Sprintf("%s %s %s notrack", frame, to, b.self.Addr))
	b.noForgery(table)
}

// ourVNI matches our VNIs in a VXLAN frame, which begin at 2^20 (24 bits, 96 bits into UDP):
// another program's tunnels on the same port are not ours to judge.
const ourVNI = "@th,96,24 >= 0x100000"

// noForgery keeps everybody but the kernel's own tunnels from speaking to a peer's
// tunnel port with this node's address: what leaves by masquerade or from a
// process here would pass there for ours, inner addresses and all. Packets of a
// tunnel device have no socket with an owner. What endpoints send is dropped wherever it goes,
// since a peer has more addresses than the one that is known here.
func (b *builder) noForgery(table *plan.Table) {
	ports := table.Set("tunnel_ports", plan.FieldPort)
	seen := map[uint16]bool{}
	for _, node := range b.snap.Nodes {
		if !seen[node.VXLANPort] {
			seen[node.VXLANPort] = true
			ports.Add(strconv.Itoa(int(node.VXLANPort)))
		}
	}
	frame := fmt.Sprintf("udp dport @%s %s", ports.Name, ourVNI)
	table.Chain("forged", "").Rule(
		fmt.Sprintf(`iifname "%s*" %s counter drop`, plan.WayOutHosts, frame),
		fmt.Sprintf(`iifname "%s*" %s counter drop`, plan.BridgeLinks, frame),
		fmt.Sprintf(`iifname @own_bridges ip daddr @peers4 %s counter drop`, frame),
		fmt.Sprintf(`iifname @own_bridges ip6 daddr @peers6 %s counter drop`, frame),
	)
	table.Chain("forgery", "type filter hook output priority filter; policy accept;").Rule(
		// The owner first: tunnels are asked nothing else.
		fmt.Sprintf("meta skuid >= 0 %s ip daddr @peers4 counter drop", frame),
		fmt.Sprintf("meta skuid >= 0 %s ip6 daddr @peers6 counter drop", frame),
	)
}
