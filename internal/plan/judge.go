package plan

import (
	"fmt"
	"net/netip"
)

// The pair of devices, both in the host, by which a packet comes in again that the host's own input
// rules have let in: a published port is then judged as one that a process has.
const (
	Judge  = HostLinks + "judge"  // the copy leaves by it
	Judged = HostLinks + "judged" // and comes in by it
)

// The sets of ports that are judged, in the host's tables of either family: only there does nft
// have the word that copies a packet.
const (
	judged   = "judged"    // on every address
	judgedAt = "judged_at" // on one
)

// judgedLast is the input hook's priority at which all filters have been asked.
const judgedLast = 1000000

// largeMTU is what a veth may have: a packet that was put together from fragments is not to be cut again.
const largeMTU = 65535

// judge is one family's part of the pair: the copy is sent to At by way of Via. Without a next hop
// that is known IPv4 would look for a neighbour of the address that was dialled.
type judge struct {
	family  Family
	at, via netip.Addr
}

func judges() []judge {
	return []judge{
		{IPv4, netip.AddrFrom4([4]byte{169, 254, 79, 2}), netip.AddrFrom4([4]byte{169, 254, 79, 3})},
		{IPv6, netip.MustParseAddr("fd79::2"), netip.MustParseAddr("fd79::3")},
	}
}

// JudgePorts has the host's own input rules asked about whatever is put to Judge. A new flow's first
// packet goes to the input hook; where no filter there dropped it a copy is sent by Judge, comes in by
// Judged, and is translated there. The packet itself ends, so that conntrack knows the copy alone.
func (s *Sandbox) JudgePorts() {
	near, far := VethMAC(NearHost), VethMAC(NearSandbox)
	s.Links = append(
		s.Links,
		Link{Name: Judge, Kind: LinkVeth, MAC: near, MTU: largeMTU, Peer: Peer{Sandbox: s.Name, Link: Judged, MAC: far}},
		Link{Name: Judged, Kind: LinkVeth, MAC: far, MTU: largeMTU, Peer: Peer{Sandbox: s.Name, Link: Judge, MAC: near}},
	)
	// The client's way back is another device: loosely, whatever the host says of all devices, and
	// that asks for an address on this one.
	s.Addrs = append(s.Addrs, Addr{Link: Judged, Prefix: netip.MustParsePrefix("169.254.79.1/32")})
	s.Sysctls = append(s.Sysctls, WithIPv6(Judge), WithIPv6(Judged), Sysctl{Key: "net/ipv4/conf/" + Judged + "/rp_filter", Value: "2"})
	for _, j := range judges() {
		s.Neighs = append(s.Neighs, Neigh{Link: Judge, IP: j.via, MAC: far})
		s.Routes = append(s.Routes, Route{Kind: RouteVia, Dst: netip.PrefixFrom(j.at, j.at.BitLen()), Via: j.via, Link: Judge})
		s.Table(string(j.family)).judge(j)
	}
}

func (t *Table) judge(j judge) {
	field := FieldIPv4
	if j.family == IPv6 {
		field = FieldIPv6
	}
	t.Set(judged, FieldProto, FieldPort).Ranges = true
	t.Set(judgedAt, field, FieldProto, FieldPort).Ranges = true
	c := t.Chain("judged", fmt.Sprintf("type filter hook input priority %d; policy accept;", judgedLast))
	c.Rule(fmt.Sprintf(`iifname "%s" counter drop`, Judged)) // no longer published: it is nobody's
	if j.family == IPv6 {
		// The kernel forwards nothing from or to a link-local address.
		c.Rule("ip6 saddr fe80::/10 accept", "ip6 daddr fe80::/10 accept")
	}
	c.Rule(
		"ct state != new accept",
		// The middle of a connection: rules about its beginning were not asked, and it would make the
		// flow a known one.
		"tcp flags & (fin | syn | rst | ack) != syn accept",
		"fib daddr type != local accept",
		fmt.Sprintf("meta l4proto . th dport @%s goto let", judged),
		fmt.Sprintf("%s daddr . meta l4proto . th dport @%s goto let", j.family, judgedAt),
	)
	t.Chain("let", "").Rule(fmt.Sprintf(`dup to %s device "%s"`, j.at, Judge), "counter drop")
}

// Judge has the ports judged, where JudgePorts was said.
func (s *Sandbox) Judge(p Ports) {
	for _, t := range s.Tables {
		if !p.Has(Family(t.Family)) || t.Family != string(IPv4) && t.Family != string(IPv6) {
			continue
		}
		if p.Addr.IsValid() {
			t.Set(judgedAt).Add(p.Addr.String(), p.Proto, p.Text())
		} else {
			t.Set(judged).Add(p.Proto, p.Text())
		}
	}
}
