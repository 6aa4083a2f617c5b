package overlay

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

func linkLocal() netip.Prefix { return netip.PrefixFrom(plan.Gateway6(), 64) }

// firewall holds who may speak to whom. Whatever is not said here is dropped.
func (b *builder) firewall(snap *mesh.Snapshot) {
	table := b.s.Table("inet")
	table.Set("sources4", plan.FieldIface, plan.FieldIPv4)
	table.Set("sources6", plan.FieldIface, plan.FieldIPv6)
	spoof := table.Chain("antispoof", "type filter hook prerouting priority raw; policy accept;")
	spoof.Rule(
		// Neighbour discovery speaks from link-local and, before it has one, from no address.
		fmt.Sprintf(`iifname "%s*" ip6 saddr { ::, fe80::/10 } accept`, plan.EndpointLinks),
		fmt.Sprintf(`iifname "%s*" meta nfproto ipv4 iifname . ip saddr != @sources4 counter drop`, plan.EndpointLinks),
		fmt.Sprintf(`iifname "%s*" meta nfproto ipv6 iifname . ip6 saddr != @sources6 counter drop`, plan.EndpointLinks),
	)
	table.Chain("isolate", "type filter hook forward priority filter; policy drop;").Rule(
		"ct state established,related accept",
		"ct state invalid counter drop",
	)
	if !b.net.Internal {
		b.outward(table)
	}
	if !b.net.Ingress() {
		b.blocks(snap, table)
	}
	if !b.net.Ingress() && !b.net.Apart {
		table.Chain("isolate", "").Rule(
			fmt.Sprintf(`iifname "%[1]s*" oifname "%[1]s*" accept`, plan.EndpointLinks),
			fmt.Sprintf(`iifname "%s*" oifname "%s" accept`, plan.EndpointLinks, plan.Tunnel),
			fmt.Sprintf(`iifname "%s" oifname "%s*" accept`, plan.Tunnel, plan.EndpointLinks),
		)
	}
	table.Chain("input", "type filter hook input priority filter; policy drop;").Rule(
		"ct state established,related accept",
		"meta l4proto { icmp, ipv6-icmp } accept",
	)
}

// outward lets endpoints speak to the world, and the world to the ports that this node answers
// on for them.
func (b *builder) outward(table *plan.Table) {
	isolate := table.Chain("isolate", "")
	isolate.Rule(
		// A segment of a mesh flow that nobody remembers would leave by the way out,
		// from another address than the client dialled: an endpoint's own flows begin with SYN.
		fmt.Sprintf(`iifname "%s*" oifname "%s" tcp flags & (fin | syn | rst | ack) != syn counter drop`, plan.EndpointLinks, plan.WayOut),
		fmt.Sprintf(`iifname "%s*" oifname "%s" accept`, plan.EndpointLinks, plan.WayOut),
	)
	four := table.Set("hosted4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	six := table.Set("hosted6", plan.FieldIPv6, plan.FieldProto, plan.FieldPort)
	ranges4, ranges6 := table.Set("hosted_range4", four.Key...), table.Set("hosted_range6", six.Key...)
	ranges4.Ranges, ranges6.Ranges = true, true
	for _, set := range []*plan.Set{four, ranges4} {
		isolate.Rule(fmt.Sprintf(`iifname "%s" ip daddr . meta l4proto . th dport @%s accept`, plan.WayOut, set.Name))
	}
	for _, set := range []*plan.Set{six, ranges6} {
		isolate.Rule(fmt.Sprintf(`iifname "%s" ip6 daddr . meta l4proto . th dport @%s accept`, plan.WayOut, set.Name))
	}
}

// blocks lets a peer's tunnel end send only from the blocks its node claims.
func (b *builder) blocks(snap *mesh.Snapshot, table *plan.Table) {
	four := table.Set("blocks4", plan.FieldMAC, plan.FieldIPv4)
	six := table.Set("blocks6", plan.FieldMAC, plan.FieldIPv6)
	for _, peer := range snap.Nodes {
		if peer.ID == b.self.ID || peer.Slot == 0 {
			continue
		}
		mac := plan.NetworkMAC(uint16(peer.Slot)).String()
		for _, block := range peer.BlocksOf(b.net.ID) {
			four.Add(mac, block.V4.Addr().String())
			six.Add(mac, block.V6.Addr().String())
		}
	}
	table.Chain("antispoof", "").Rule(plan.ForeignSource(`"`+plan.Tunnel+`"`, b.net.Bits4)...)
}
