package ingress

import (
	"fmt"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// door is the veth from ingress-sbox to this node's own endpoints. VXLAN would
// deliver to itself, but keeps the sender's route and is dropped in the other
// namespace. Its MACs are those of the two tunnel ends, so that to both sides the
// own node is one more peer.
func (b *builder) door() {
	slot := uint16(b.self.Slot)
	network := b.network()
	b.sbox.Links = append(b.sbox.Links, plan.Link{
		Name: plan.DoorOut, Kind: plan.LinkVeth, MAC: plan.EntryMAC(slot), MTU: b.mtu,
		Peer: plan.Peer{Sandbox: network.Name, Link: plan.DoorIn, MAC: plan.NetworkMAC(slot)},
	})
	network.Links = append(network.Links, plan.Link{
		Name: plan.DoorIn, Kind: plan.LinkVeth, MAC: plan.NetworkMAC(slot), MTU: b.mtu,
		Peer: plan.Peer{Sandbox: b.sbox.Name, Link: plan.DoorOut, MAC: plan.EntryMAC(slot)},
	})
}

// wayBack sends each reply to the ingress-sbox its flow came from. The sender's
// MAC puts the flow into a conntrack zone (its original direction only, so that
// replies are found); the zone gives a reply its mark; the mark gives it the MAC
// of the tunnel end to go to, on the way-out device's egress hook. Cost does not grow
// with the number of nodes: no ip rule, no second routing table.
func (b *builder) wayBack() {
	network := b.network()
	table := network.Table("inet")
	zones := table.Map("node_zones", plan.FieldZone, plan.FieldMAC)
	zoneMarks := table.Map("zone_marks", plan.FieldMark, plan.FieldZone)
	egress := network.Table("netdev")
	local := egress.Map("own_macs", plan.FieldMAC, plan.FieldMark)
	remote := egress.Map("node_macs", plan.FieldMAC, plan.FieldMark)
	for _, node := range b.snap.Nodes {
		if node.Slot == 0 {
			continue
		}
		slot := uint16(node.Slot)
		zone, mark, mac := strconv.Itoa(int(slot)), plan.HexMark(plan.ReplyMark|uint32(slot)), plan.EntryMAC(slot)
		zones.Put(zone, mac.String())
		if !b.gone[node.ID] {
			network.Zones = append(network.Zones, plan.Zone(slot))
		}
		zoneMarks.Put(mark, zone)
		if node.ID == b.self.ID {
			local.Put(mac.String(), mark)
			continue
		}
		remote.Put(mac.String(), mark)
		network.FDB = append(network.FDB, plan.FDBEntry{
			Link: plan.Tunnel, MAC: mac, Dst: node.Addr, VNI: uint32(b.net.EntryVNI), Port: node.VXLANPort,
		})
	}
	b.zoneChains(table)
	own := plan.NetworkMAC(uint16(b.self.Slot))
	// A missed map ends only its own rule, so each look-up stands with its fwd.
	egress.Chain("back", "").Rule(
		fmt.Sprintf(`ether daddr set meta mark map @own_macs ether saddr set %s fwd to "%s"`, own, plan.DoorIn),
		fmt.Sprintf(`ether daddr set meta mark map @node_macs ether saddr set %s fwd to "%s"`, own, plan.Tunnel),
		"counter drop",
	)
	egress.Chain("egress", fmt.Sprintf(`type filter hook egress device "%s" priority 0; policy accept;`, plan.WayOut)).Rule(
		fmt.Sprintf("meta mark & %s != 0 jump back", plan.HexMark(plan.ReplyMark)),
	)
}

func (b *builder) zoneChains(table *plan.Table) {
	doors := fmt.Sprintf(`{ "%s", "%s" }`, plan.Tunnel, plan.DoorIn)
	// A client of the mesh has any address but an overlay's.
	table.Chain("antispoof", "").Rule(b.fromOverlay("iifname " + doors)...)
	table.Chain("zones", "type filter hook prerouting priority raw; policy accept;").Rule(
		fmt.Sprintf("iifname %s ct original zone set ether saddr map @node_zones", doors),
	)
	table.Chain("mangle", "type filter hook prerouting priority mangle; policy accept;").Rule(
		fmt.Sprintf("iifname %s ct original zone 0 counter drop", doors), // not from a node we know
		fmt.Sprintf(`iifname "%s*" meta mark set ct original zone map @zone_marks`, plan.EndpointLinks),
	)
	// ICMP errors made here go the same way as replies.
	table.Chain("own_errors", "type filter hook output priority mangle; policy accept;").Rule(
		"meta mark set ct original zone map @zone_marks",
	)
	// Null bindings: two flows of one client port by two nodes would be one
	// 4-tuple at the endpoint; conntrack gives the later one another port.
	table.Chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;")
	b.moved(table, doors)
}

// For how long a flow whose entry node is gone, or lost the address that was dialled, is
// expected by another one.
const (
	moveWait = time.Minute
	overWait = 30 * time.Second
)

// movedLimit is how many senders of flows that move are remembered at a time.
const movedLimit = 65536

// moved is for flows that come by another node than before. A segment of an open
// connection that conntrack gave another port stands beside the flow by the old node: the
// endpoint would answer with a reset. The first few are dropped instead. Either the old
// flow is deleted meanwhile, and the client's next try goes on as if nothing had been; or
// the client is to learn that it fails.
func (b *builder) moved(table *plan.Table, doors string) {
	table.Remember("early4", movedLimit, moveWait, plan.FieldIPv4, plan.FieldPort)
	table.Remember("early6", movedLimit, moveWait, plan.FieldIPv6, plan.FieldPort)
	table.Chain("early", "").Rule(
		// By the client's own port: the one that it was given is another one at each try.
		"meta l4proto tcp add @early4 { ip saddr . ct original proto-src limit rate 1/minute burst 7 packets } counter drop",
		"meta l4proto tcp add @early6 { ip6 saddr . ct original proto-src limit rate 1/minute burst 7 packets } counter drop",
	)
	table.Chain("displaced", "type filter hook postrouting priority 101; policy accept;").Rule(
		fmt.Sprintf("ct state new iifname %s ct status & snat == snat tcp flags & (fin | syn | rst | ack) != syn goto early", doors),
	)
}

// targets is the isolation set: what of an endpoint the mesh may speak to.
func (b *builder) targets() {
	table := b.network().Table("inet")
	four := table.Set("targets4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	six := table.Set("targets6", plan.FieldIPv6, plan.FieldProto, plan.FieldPort)
	seen := map[string]bool{}
	local := map[mesh.ServiceID][]mesh.Attachment{}
	for _, e := range b.snap.Local(b.self.ID) {
		if a, ok := e.On(b.net.ID); ok {
			local[e.Service] = append(local[e.Service], a)
		}
	}
	for _, f := range b.snap.Fronts {
		if f.Port.Mode == mesh.Hosted {
			continue
		}
		for _, a := range local[f.Service.ID] {
			proto, port := string(f.Port.Proto), strconv.Itoa(int(f.Port.Target))
			// Two published ports may lead to one target.
			if key := plan.Join(a.V4.String(), proto, port); !seen[key] {
				seen[key] = true
				four.Add(a.V4.String(), proto, port)
				six.Add(a.V6.String(), proto, port)
			}
		}
	}
	doors := fmt.Sprintf(`{ "%s", "%s" }`, plan.Tunnel, plan.DoorIn)
	b.overDatagrams(table)
	table.Chain("isolate", "").Rule(
		fmt.Sprintf("iifname %s ip daddr . meta l4proto . th dport @targets4 accept", doors),
		fmt.Sprintf("iifname %s ip6 daddr . meta l4proto . th dport @targets6 accept", doors),
	)
}

// overDatagrams holds back datagrams that an endpoint goes on sending, from a published
// port, in a flow that is over by one node and not there yet by another: they would begin
// a flow out of the mesh, which then stands in the client's way. (Segments cannot.)
func (b *builder) overDatagrams(table *plan.Table) {
	table.Remember(plan.Over4, movedLimit, overWait, plan.FieldIPv4, plan.FieldPort)
	table.Remember(plan.Over6, movedLimit, overWait, plan.FieldIPv6, plan.FieldPort)
	from := fmt.Sprintf(`ct state new iifname "%s*" oifname "%s" meta l4proto udp`, plan.EndpointLinks, plan.WayOut)
	table.Chain("over", "type filter hook forward priority -10; policy accept;").Rule(
		from+" ip saddr . meta l4proto . th sport @targets4 ip daddr . th dport @over4 counter drop",
		from+" ip6 saddr . meta l4proto . th sport @targets6 ip6 daddr . th dport @over6 counter drop",
	)
}
