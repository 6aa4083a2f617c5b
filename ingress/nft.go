package ingress

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// NFT balances by nftables alone, for kernels without IP_VS. A connection's first
// packet takes this way through ingress-sbox; conntrack remembers the rest:
//
//	mark of the service -> kept as the flow's ct mark
//	 -> ways: how many slots, drawn at random or by the client's address
//	 -> the slot drawn, as packet mark
//	 -> slots: (service, slot) -> endpoint address and target port: DNAT
//
// With client affinity it goes there by a detour (affinity.go).
//
// Rules are the same for all services; what varies are elements. A service
// without a ready backend has no way, so the packet reaches the input chain and is refused.
type NFT struct{}

// A way's number is its number of slots, with this bit where the client's address draws.
const byClientWay = 1 << 16

// hashSeed is the same on all nodes, so that a client reaches one backend through
// each of them. Without one the kernel would choose a new one for each rule.
const hashSeed = 0x51

// Balance implements Balancer.
func (NFT) Balance(fronts []Front, at Site) {
	sbox := at.Sandbox
	// A segment of an open connection that comes here after its address moved is
	// balanced as a first packet: by client it finds the same backend.
	sbox.Sysctls = append(sbox.Sysctls, plan.Sysctl{Key: "net/netfilter/nf_conntrack_tcp_loose", Value: "1"})
	table := sbox.Table("inet")
	ways := table.Map("ways", plan.FieldMark, plan.FieldMark)
	four := table.Map("slots4", plan.FieldIPv4, plan.FieldMark, plan.FieldMark)
	six := table.Map("slots6", plan.FieldIPv6, plan.FieldMark, plan.FieldMark)
	if !at.KeepsPort {
		four.Value, six.Value = append(four.Value, plan.FieldPort), append(six.Value, plan.FieldPort)
	}
	draws, ids := affinityMaps(table)
	times := affinities(fronts)
	targets := map[plan.Flow]bool{}
	drawn := map[mesh.ServiceID][]int{}
	for _, f := range fronts {
		addFlows(targets, f)
		slots, known := drawn[f.Service.ID]
		if !known {
			slots = slotsOf(f)
			drawn[f.Service.ID] = slots
		}
		if len(slots) == 0 {
			continue
		}
		way := len(slots)
		if consistent(f.Service) {
			way |= byClientWay
		}
		mark := plan.HexMark(f.Mark)
		lead := func(number string, b Backend) {
			if f.At4.IsValid() {
				four.Put(at.target(b.V4, f), mark, number)
			}
			if f.At6.IsValid() {
				six.Put(at.target(b.V6, f), mark, number)
			}
		}
		if f.Service.Affinity == 0 {
			ways.Put(plan.HexMark(uint32(way)), mark)
			for slot, i := range slots {
				lead(slotNumber(slot), f.Backends[i])
			}
			continue
		}
		ways.Put(plan.HexMark(seconds(roundedUp(f.Service.Affinity, times))|byAffinity), mark)
		draws.Put(plan.HexMark(uint32(way)), mark)
		for slot, i := range slots {
			ids.Put(idOf(f.Backends[i]), mark, slotNumber(slot))
		}
		for _, b := range f.Backends {
			if b.Weight > 0 {
				lead(idOf(b), b)
			}
		}
	}
	if len(targets) == 0 {
		targets[plan.Nowhere()] = true
	}
	for flow := range targets { // the plan is sorted afterwards
		sbox.Flows = append(sbox.Flows, flow)
	}
	chains(table, times, at.Clients)
}

// target is what a connection to a backend is translated to, as a map's value.
func (at Site) target(backend netip.Addr, f Front) string {
	if at.KeepsPort {
		return backend.String()
	}
	return plan.Join(backend.String(), strconv.Itoa(int(f.Port.Target)))
}

// slotNumber is how a slot stands in the maps: 0 would be no mark.
func slotNumber(slot int) string { return plan.HexMark(uint32(slot + 1)) }

// addFlows lets flows to the front's backends go on, to the draining ones too.
func addFlows(targets map[plan.Flow]bool, f Front) {
	for _, b := range f.Backends {
		for _, addr := range []netip.Addr{b.V4, b.V6} {
			targets[plan.Flow{Addr: addr, Port: f.Port.Target}] = true
		}
	}
}

// slotsOf spreads as IPVS's scheduler of the name does, but for turns and open connections.
func slotsOf(f Front) []int {
	switch f.Service.Scheduler {
	case mesh.SourceHash, mesh.Maglev:
		return byClient(f.Backends)
	case mesh.RoundRobin, mesh.LeastConn:
		return spread(equally(f.Backends))
	default:
		return spread(f.Backends)
	}
}

// consistent tells whether a client is to reach the same backend each time. nft does
// not count a backend's connections: least-connection schedulers draw by weight.
func consistent(s *mesh.Service) bool {
	return s.Scheduler == mesh.SourceHash || s.Scheduler == mesh.Maglev
}

// chains are the rules, the same for every state of the cluster but for the times of
// affinity in it. What comes back out of pick has no backend (yet).
func chains(table *plan.Table, times []time.Duration, clients string) {
	table.Chain("pick", "").Rule(
		"meta nfproto ipv4 meta l4proto { tcp, udp, sctp } dnat ip to ct mark . meta mark map @slots4",
		"meta nfproto ipv6 meta l4proto { tcp, udp, sctp } dnat ip6 to ct mark . meta mark map @slots6",
		"meta mark set ct mark . meta mark map @ids",
	)
	var goes []string
	for _, n := range widths() {
		name := fmt.Sprintf("random%d", n)
		draw := fmt.Sprintf("meta mark set numgen random mod %d offset 1 goto pick", n)
		table.Chain(name, "").Rule(draw)
		goes = append(goes, plan.HexMark(uint32(n))+" : goto "+name)
	}
	table.Chain("client", "").Rule(
		fmt.Sprintf("meta nfproto ipv4 meta mark set jhash ip saddr mod %d seed %#x offset 1 goto pick", clientSlots, hashSeed),
		fmt.Sprintf("meta nfproto ipv6 meta mark set jhash ip6 saddr mod %d seed %#x offset 1 goto pick", clientSlots, hashSeed),
	)
	goes = append(goes, plan.HexMark(clientSlots|byClientWay)+" : goto client")
	table.Chain("draw", "").Rule("meta mark vmap { " + strings.Join(goes, ", ") + " }")
	ways := affinityChains(table, times)
	table.Chain("way", "").Rule("meta mark vmap { "+strings.Join(ways, ", ")+" }", "goto draw")
	table.Chain("balance", "type nat hook prerouting priority dstnat; policy accept;").Rule(
		fmt.Sprintf("iifname %s meta mark != 0 ct mark set meta mark", clients),
		fmt.Sprintf("iifname %s meta mark set ct mark map @ways goto way", clients),
	)
	// Null bindings: two ports of one service may lead to one target port, and two
	// connections of one client port then are told apart by another source port.
	table.Chain("unclash", "type nat hook postrouting priority srcnat; policy accept;")
}

// Admits implements Balancer: what was given a backend's address is forwarded there.
func (NFT) Admits(at Site) (input, forward []string) {
	for _, dialled := range at.Dialled {
		// Of a front that nobody is behind any more, or that is published no longer.
		forward = append(
			forward,
			dialled+" meta mark 0 meta l4proto tcp counter reject with tcp reset",
			dialled+" meta mark 0 counter reject",
		)
	}
	return nil, append(forward, fmt.Sprintf("iifname %s %s ct status & dnat == dnat accept", at.Clients, at.Backends))
}
