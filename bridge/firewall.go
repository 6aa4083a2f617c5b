package bridge

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Devices of ours as rules name them: by the beginning of their names, so that the rules are
// there before any such device is.
const (
	bridges = `"` + plan.BridgeLinks + `*"`
	waysOut = `"` + plan.WayOutHosts + `*"`
)

// translated is what a flow to a published port is, from its second hook on.
const translated = "ct status & dnat == dnat"

// firewall are the host's fixed chains of the base layer.
func (b *builder) firewall() {
	b.closed()
	b.forward()
	b.ports()
	b.masquerade()
	if b.local.Lock {
		b.lock()
	}
}

// closed drops what must not even be routed: packets from elsewhere to an endpoint's own
// address (whoever is on one link with the host may send such), and from an endpoint with an
// address that is none of its bridge's.
func (b *builder) closed() {
	b.table.Chain("closed", "type filter hook prerouting priority raw; policy accept;").Rule(
		// Where the host's loopback ports are published, a device lets packets to them in.
		// (The kernel itself lets none to ::1 in.)
		`iifname != "lo" ip daddr 127.0.0.0/8 counter drop`,
		fmt.Sprintf("iifname != %s ip daddr @bridged4 counter drop", bridges),
		fmt.Sprintf("iifname != %s ip6 daddr @bridged6 counter drop", bridges),
		// Neighbour discovery speaks from link-local and, before it has one, from no address.
		fmt.Sprintf("iifname %s ip6 saddr { ::, fe80::/10 } accept", bridges),
		fmt.Sprintf("iifname %s meta nfproto ipv4 iifname . ip saddr != @bridge_sources4 counter drop", bridges),
		fmt.Sprintf("iifname %s meta nfproto ipv6 iifname . ip6 saddr != @bridge_sources6 counter drop", bridges),
	)
}

// forward says who may speak to whom through the host.
func (b *builder) forward() {
	unrouted4, unrouted6 := b.table.Set("unrouted4", plan.FieldIface), b.table.Set("unrouted6", plan.FieldIface)
	for _, name := range b.local.Unrouted4 {
		unrouted4.Add(name)
	}
	for _, name := range b.local.Unrouted6 {
		unrouted6.Add(name)
	}
	b.table.Chain("forged", "")
	b.table.Chain("forward", "type filter hook forward priority filter; policy accept;").Rule(
		// A flow may begin with another program's frames, so each datagram is looked at
		// (package ingress knows the tunnels) before known flows are let go.
		"meta l4proto udp jump forged",
		"ct state established,related accept",
		// By way of the host: an endpoint may have other routes than ours.
		"iifname . oifname @together accept",
		"iifname @internal_bridges counter drop",
		"oifname @internal_bridges counter drop",
		// Before stage one of the isolation: another network's published port is for all.
		fmt.Sprintf("oifname %s %s accept", bridges, translated),
	)
	b.entered()
	b.table.Chain("forward", "").Rule(
		fmt.Sprintf("oifname %s ct state new counter drop", waysOut),
		fmt.Sprintf("iifname %s jump leaving", bridges),
		// A port that a bridge publishes is reached through the host, as from anywhere.
		fmt.Sprintf("iifname %s oifname @own_bridges ct status & dnat != dnat counter drop", waysOut),
		// What conntrack does not know is not translated: an overlay address would leave.
		fmt.Sprintf("iifname %s ct state invalid counter drop", waysOut),
		fmt.Sprintf("oifname %s oifname != @routed_bridges counter drop", bridges),
		// The host forwards for the mesh's sake and is no router for its neighbours
		// because of it.
		"meta nfproto ipv4 iifname @unrouted4 oifname @unrouted4 counter drop",
		"meta nfproto ipv6 iifname @unrouted6 oifname @unrouted6 counter drop",
	)
	// Stage two of the isolation: what leaves one of our bridges for another bridge.
	b.table.Chain("leaving", "").Rule(
		fmt.Sprintf("oifname %s counter drop", bridges),
		"oifname @own_bridges ct status & dnat != dnat counter drop",
		"ct state invalid counter drop", // would not be translated either
	)
}

// entered lets ports of endpoints on an overlay be reached by their way out.
func (b *builder) entered() {
	four := b.table.Set("entered4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	six := b.table.Set("entered6", plan.FieldIPv6, plan.FieldProto, plan.FieldPort)
	ranges4 := b.table.Set("entered_range4", four.Key...)
	ranges6 := b.table.Set("entered_range6", six.Key...)
	ranges4.Ranges, ranges6.Ranges = true, true
	where := fmt.Sprintf("oifname %s %s", waysOut, translated)
	chain := b.table.Chain("forward", "")
	for _, set := range []*plan.Set{four, ranges4} {
		chain.Rule(fmt.Sprintf("%s ip daddr . meta l4proto . th dport @%s accept", where, set.Name))
	}
	for _, set := range []*plan.Set{six, ranges6} {
		chain.Rule(fmt.Sprintf("%s ip6 daddr . meta l4proto . th dport @%s accept", where, set.Name))
	}
}

// ports captures what is dialled at an address of the host. Package ingress adds what goes to
// the mesh.
func (b *builder) ports() {
	b.hostedMaps()
	b.table.Chain("capture", "").Rule(
		// The kernel forwards nothing from or to a link-local address.
		"ip6 saddr fe80::/10 return",
		"ip6 daddr fe80::/10 return",
		"dnat ip to ip daddr . meta l4proto . th dport map @"+plan.HostedAt4,
		"dnat ip6 to ip6 daddr . meta l4proto . th dport map @"+plan.HostedAt6,
		"meta nfproto ipv4 dnat ip to meta l4proto . th dport map @"+plan.Hosted4,
		"meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @"+plan.Hosted6,
		"dnat ip to ip daddr . meta l4proto . th dport map @"+plan.HostedRangeAt4,
		"dnat ip6 to ip6 daddr . meta l4proto . th dport map @"+plan.HostedRangeAt6,
		"meta nfproto ipv4 dnat ip to meta l4proto . th dport map @"+plan.HostedRange4,
		"meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @"+plan.HostedRange6,
	)
	// Only what is meant for this node: traffic passing through to somebody
	// else's same port has no local destination.
	prerouting := b.table.Chain("prerouting", "type nat hook prerouting priority dstnat; policy accept;")
	if b.local.Firewall == mesh.FirewallRespect {
		b.judge(prerouting)
	} else {
		prerouting.Rule(fmt.Sprintf(`iifname != "%s" fib daddr type local jump capture`, plan.UplinkHost))
	}
	b.table.Chain("output", "type nat hook output priority -100; policy accept;").Rule("fib daddr type local jump capture")
	// What the host's own processes dial does not come by here.
	b.table.Chain("guard", "type filter hook prerouting priority mangle; policy accept;").Rule(
		fmt.Sprintf(`iifname != "%s" ct state new fib daddr type local jump %s`, plan.UplinkHost, b.table.Sourced().Name),
	)
}

// judge lets nothing that comes from elsewhere be captured but what the host's own input rules have
// let in. Endpoints and other containers of the host are captured at once: that copy would hide from
// the rules which bridge they are on.
func (b *builder) judge(prerouting *plan.Chain) {
	b.host.JudgePorts()
	for _, from := range []string{"@own_bridges", waysOut, `"` + plan.Judged + `"`} {
		prerouting.Rule(fmt.Sprintf("iifname %s fib daddr type local jump capture", from))
	}
	// Only copies go there, which are not forwarded; anything else would go round.
	b.table.Chain("forward", "").Rule(fmt.Sprintf(`oifname "%s" counter drop`, plan.Judge))
}

// masquerade gives what leaves an endpoint's network the host's address, and what comes from
// the host's loopback addresses, which mean nothing elsewhere.
func (b *builder) masquerade() {
	gateways4, gateways6 := b.table.Set("gateways4", plan.FieldIPv4), b.table.Set("gateways6", plan.FieldIPv6)
	chain := b.table.Chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;")
	chain.Rule(
		fmt.Sprintf("iifname %s masquerade", waysOut),
		fmt.Sprintf("iifname %s oifname != %s masquerade", bridges, bridges),
		// Its own or another network's published port: the answer must come by here.
		fmt.Sprintf("iifname %s oifname %s %s masquerade", bridges, bridges, translated),
	)
	for _, devices := range []string{bridges, waysOut} {
		chain.Rule(
			fmt.Sprintf("oifname %s ip saddr %s masquerade", devices, netip.MustParsePrefix("127.0.0.0/8")),
			fmt.Sprintf("oifname %s ip6 saddr %s masquerade", devices, netip.IPv6Loopback()),
			// A process that dials a port at a bridge's address has this for its own: on
			// another network the answer would come by another device than that address is for.
			fmt.Sprintf("oifname %s ip saddr @%s %s masquerade", devices, gateways4.Name, translated),
			fmt.Sprintf("oifname %s ip6 saddr @%s %s masquerade", devices, gateways6.Name, translated),
		)
	}
}
