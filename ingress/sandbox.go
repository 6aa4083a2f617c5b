package ingress

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// sandbox is ingress-sbox itself: a load balancer and nothing else. No endpoint
// lives in it and it needs no conntrack.
func (b *builder) sandbox() {
	b.sbox.Sysctls = append(
		b.sbox.Sysctls,
		plan.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"},
		plan.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"},
		plan.WithIPv6("*"),
		plan.Sysctl{Key: "net/ipv4/conf/*/rp_filter", Value: "0"}, // replies come in where no route points
		plan.Sysctl{Key: "net/ipv6/conf/*/accept_dad", Value: "0"},
		plan.Sysctl{Key: "net/ipv4/icmp_ratelimit", Value: "0"}, // every path MTU message counts
		plan.Sysctl{Key: "net/ipv6/icmp/ratelimit", Value: "0"},
	)
	for _, subnet := range b.net.Subnets() {
		b.sbox.Routes = append(b.sbox.Routes, plan.Route{Kind: plan.RouteUnreachable, Dst: subnet})
	}
}

// entry is ingress-sbox as what balances published ports.
func (b *builder) entry() Site {
	return Site{
		Sandbox: b.sbox, Clients: `"` + plan.Uplink + `"`, Backends: fmt.Sprintf(`oifname { "%s", "%s" }`, plan.Tunnel, plan.DoorOut),
		Dialled: []string{fmt.Sprintf(`iifname "%s"`, plan.Uplink)},
	}
}

// uplink is the veth between the host and ingress-sbox, with one address in the
// sandbox for "any address of this node" and one per published address.
func (b *builder) uplink(fronts []Front) {
	near, far := plan.VethMAC(plan.NearSandbox), plan.VethMAC(plan.NearHost)
	b.sbox.Links = append(b.sbox.Links, plan.Link{
		Name: plan.Uplink, Kind: plan.LinkVeth, MAC: near, MTU: b.self.MTU,
		Peer: plan.Peer{Sandbox: b.host.Name, Link: plan.UplinkHost, MAC: far},
	})
	b.host.Links = append(b.host.Links, plan.Link{
		Name: plan.UplinkHost, Kind: plan.LinkVeth, MAC: far, MTU: b.self.MTU,
		Peer: plan.Peer{Sandbox: b.sbox.Name, Link: plan.Uplink, MAC: near},
	})
	host4, host6 := plan.Uplink4(plan.UplinkHostNumber), plan.Uplink6(plan.UplinkHostNumber)
	b.host.Addrs = append(b.host.Addrs, plan.Addr{Link: plan.UplinkHost, Prefix: host4}, plan.Addr{Link: plan.UplinkHost, Prefix: host6})
	b.sbox.Neighs = append(
		b.sbox.Neighs,
		plan.Neigh{Link: plan.Uplink, IP: host4.Addr(), MAC: far},
		plan.Neigh{Link: plan.Uplink, IP: host6.Addr(), MAC: far},
	)
	b.sbox.DefaultBy(plan.Exit{Link: plan.Uplink, Via4: host4.Addr(), Via6: host6.Addr()})
	ends := map[netip.Prefix]bool{plan.Uplink4(plan.UplinkSandboxNumber): true, plan.Uplink6(plan.UplinkSandboxNumber): true}
	for _, f := range fronts {
		if f.At4.IsValid() {
			ends[netip.PrefixFrom(f.At4, host4.Bits())] = true
		}
		if f.At6.IsValid() {
			ends[netip.PrefixFrom(f.At6, host6.Bits())] = true
		}
	}
	for end := range ends { // the plan is sorted afterwards
		b.sbox.Addrs = append(b.sbox.Addrs, plan.Addr{Link: plan.Uplink, Prefix: end})
		b.host.Neighs = append(b.host.Neighs, plan.Neigh{Link: plan.UplinkHost, IP: end.Addr(), MAC: near})
	}
	b.host.Sysctls = append(b.host.Sysctls,
		plan.WithIPv6(plan.UplinkHost),
		// Replies to a process that dialled 127.0.0.1 come back by the uplink; the
		// guard chain drops everything else to that address.
		plan.Sysctl{Key: "net/ipv4/conf/" + plan.UplinkHost + "/route_localnet", Value: "1"})
	// The same for ::1, which has no such switch: the address is local on the uplink too.
	b.host.Routes = append(b.host.Routes,
		plan.Route{Kind: plan.RouteLocal, Dst: netip.PrefixFrom(netip.IPv6Loopback(), 128), Link: plan.UplinkHost})
}

// tunnel is ingress-sbox's end of the ingress overlay. Its frames go to the
// network sandboxes' ends, which listen on the network's other VNI.
func (b *builder) tunnel() {
	b.sbox.Links = append(b.sbox.Links, plan.Link{
		Name: plan.Tunnel, Kind: plan.LinkVXLAN, MAC: plan.EntryMAC(uint16(b.self.Slot)), MTU: b.mtu,
		VXLAN: plan.VXLAN{VNI: uint32(b.net.EntryVNI), Local: b.self.Addr, Port: b.self.VXLANPort},
	})
	for _, node := range b.snap.Nodes {
		blocks := node.BlocksOf(b.net.ID)
		if node.Slot == 0 || len(blocks) == 0 {
			continue
		}
		mac := plan.NetworkMAC(uint16(node.Slot))
		link := plan.Tunnel
		if node.ID == b.self.ID {
			link = plan.DoorOut
		} else {
			b.sbox.FDB = append(b.sbox.FDB, plan.FDBEntry{
				Link: plan.Tunnel, MAC: mac, Dst: node.Addr, VNI: uint32(b.net.VNI), Port: node.VXLANPort,
			})
		}
		for _, block := range blocks {
			plan.TowardsBlock(b.sbox, plan.Hop{Link: link, MAC: mac, Via4: block.Gateway4(), Via6: block.Gateway6()}, block.V4, block.V6)
		}
	}
}

// firewall of ingress-sbox: in by the uplink to IPVS, back by the tunnel to
// the uplink, nothing else.
func (b *builder) firewall() {
	table := b.sbox.Table("inet")
	four := table.Set("blocks4", plan.FieldMAC, plan.FieldIPv4)
	six := table.Set("blocks6", plan.FieldMAC, plan.FieldIPv6)
	for _, node := range b.snap.Nodes {
		if node.Slot == 0 {
			continue
		}
		mac := plan.NetworkMAC(uint16(node.Slot)).String()
		for _, block := range node.BlocksOf(b.net.ID) {
			four.Add(mac, block.V4.Addr().String())
			six.Add(mac, block.V6.Addr().String())
		}
	}
	back := fmt.Sprintf(`{ "%s", "%s" }`, plan.Tunnel, plan.DoorOut)
	table.Chain("antispoof", "type filter hook prerouting priority raw; policy accept;").
		Rule(plan.ForeignSource(back, b.net.Bits4)...)
	admitIn, admitOut := b.balancer.Admits(b.entry())
	input := table.Chain("input", "type filter hook input priority filter; policy drop;")
	input.Rule(admitIn...)
	input.Rule(
		"meta l4proto { icmp, ipv6-icmp } accept",
		fmt.Sprintf(`iifname "%s" meta l4proto tcp counter reject with tcp reset`, plan.Uplink),
		fmt.Sprintf(`iifname "%s" counter reject`, plan.Uplink),
	)
	forward := table.Chain("forward", "type filter hook forward priority filter; policy drop;")
	forward.Rule(fmt.Sprintf(`iifname %s oifname "%s" accept`, back, plan.Uplink))
	forward.Rule(admitOut...)
	// After replies were translated, by IPVS at priority 100 of forward or by conntrack at
	// 100 of postrouting: what still has an overlay source belongs to no connection.
	table.Chain("leak", "type filter hook postrouting priority 200; policy accept;").Rule(b.fromOverlay(fmt.Sprintf(`oifname "%s"`, plan.Uplink))...)
}

// fromOverlay are rules that drop what has an address of the ingress network, one a subnet.
func (b *builder) fromOverlay(where string) []string {
	var rules []string
	for _, subnet := range b.net.Subnets() {
		family := "ip"
		if subnet.Addr().Is6() {
			family = "ip6"
		}
		rules = append(rules, fmt.Sprintf("%s %s saddr %s counter drop", where, family, subnet))
	}
	return rules
}

// timeouts are conntrack's own, so that IPVS never forgets a flow that the
// rest of the path remembers (moby#31208: idle connections hang after 15 minutes).
func timeouts() plan.Timeouts {
	return plan.Timeouts{TCP: 5 * 24 * time.Hour, TCPFin: 2 * time.Minute, UDP: 3 * time.Minute}
}
