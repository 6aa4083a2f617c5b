package trace

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// packet is what rules look at. It is a value: each choice goes on with a copy.
type packet struct {
	proto              string
	src, dst           netip.Addr
	dport              uint16
	etherSrc, etherDst plan.MAC
	iif, oif           string
	mark               uint32
	ctMark             uint32     // of its flow, in the sandbox that it is in
	zone               uint16     // of the flow's original direction, in the sandbox that it is in
	ct                 string     // ctNew or ctEstablished
	dnat, snat         bool       // conntrack gives it another destination, another source
	dialled            netip.Addr // the destination of its flow's first packet, in the sandbox that it is in; zero: dst
	socket             bool       // a process of the host sends it
	flags              []string
	vni                uint32 // of an outer packet
	copied             string // the device that a copy of it left by
}

// What conntrack says of the packets that are walked.
const (
	ctNew         = "new"
	ctEstablished = "established"
)

// field gives a field of the packet in the text form of an element; false where
// the packet has none, which ends a rule. An unknown field is not asked for:
// the reader of rules knows the same list.
func (w *walk) field(p *packet, name string) (string, bool) {
	four := p.dst.Is4()
	switch name {
	case "iifname":
		return p.iif, true
	case "oifname":
		return p.oif, true
	case "ether type":
		return map[bool]string{true: "ip", false: "ip6"}[four], true
	case "ether saddr":
		return p.etherSrc.String(), p.etherSrc != plan.MAC{}
	case "ether daddr":
		return p.etherDst.String(), p.etherDst != plan.MAC{}
	case "ip saddr":
		return p.src.String(), four
	case "ip daddr":
		return p.dst.String(), four
	case "ip6 saddr":
		return p.src.String(), !four
	case "ip6 daddr":
		return p.dst.String(), !four
	case "th dport":
		return strconv.Itoa(int(p.dport)), true
	case "udp dport":
		return strconv.Itoa(int(p.dport)), p.proto == "udp"
	case "tcp flags":
		return strings.Join(p.flags, " | "), p.proto == "tcp"
	case "@nh,64,32":
		return sourceWord(p, 0), !four
	case "@nh,96,32":
		return sourceWord(p, 1), !four
	case "@th,96,24":
		return strconv.Itoa(int(p.vni)), p.vni != 0
	default:
		if of, ok := strings.CutPrefix(name, hashWord); ok {
			value, found := w.field(p, of)
			return hashWord + value, found
		}
		return w.metadata(p, name)
	}
}

// sourceWord is one of the four words of an IPv6 source address.
func sourceWord(p *packet, n int) string {
	a := p.src.As16()
	return plan.HexMark(binary.BigEndian.Uint32(a[4*n:]))
}

// arrive puts the packet into another namespace, in by a device: what the kernel
// thought of it stays behind.
func (p *packet) arrive(device string) {
	p.iif, p.oif = device, ""
	p.mark, p.ctMark, p.zone, p.dnat, p.snat, p.socket, p.dialled = 0, 0, 0, false, false, false, netip.Addr{}
}

// metadata are the fields that are not in the packet itself.
func (w *walk) metadata(p *packet, name string) (string, bool) {
	switch name {
	case "meta l4proto":
		return p.proto, true
	case "meta nfproto":
		if p.dst.Is4() {
			return "ipv4", true
		}
		return "ipv6", true
	case "meta mark":
		return plan.HexMark(p.mark), true
	case "ct mark":
		return plan.HexMark(p.ctMark), true
	case "ct state":
		return p.ct, true
	case "ct status":
		var status []string
		if p.snat {
			status = append(status, "snat")
		}
		if p.dnat {
			status = append(status, "dnat")
		}
		return strings.Join(status, " | "), true
	case "ct direction":
		if p.ct == ctNew {
			return "original", true
		}
		return "reply", true // the only established packets that are walked
	case "ct original ip daddr", "ct original ip6 daddr":
		dialled := p.dst
		if p.dialled.IsValid() {
			dialled = p.dialled
		}
		return dialled.String(), dialled.Is4() == (name == "ct original ip daddr")
	case "meta skuid":
		return "0", p.socket
	case "ct original zone":
		return strconv.Itoa(int(p.zone)), true
	case "fib saddr type":
		return w.kindOf(p.src), true
	case "fib daddr type":
		return w.kindOf(p.dst), true
	default:
		return "", false
	}
}

// fields lists what may stand in a rule.
func fields() []string {
	return []string{
		"iifname", "oifname", "ether type", "ether saddr", "ether daddr", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr",
		"th dport", "udp dport", "tcp flags", "@th,96,24", "@nh,64,32", "@nh,96,32", "meta l4proto", "meta nfproto", "meta mark", "meta skuid",
		"ct state", "ct status", "ct mark", "ct original zone", "ct direction", "ct original ip daddr", "ct original ip6 daddr", "fib saddr type", "fib daddr type",
		// What no packet that is walked has.
		"arp saddr ether", "arp saddr ip", "icmpv6 type", "@th,64,10", "@th,64,128",
	}
}

func (w *walk) kindOf(a netip.Addr) string {
	if w.local(a) {
		return "local"
	}
	return "unicast"
}

// local tells whether an address is the sandbox's own.
func (w *walk) local(a netip.Addr) bool {
	host := w.sandbox.Kind == plan.KindHost
	return a.IsLoopback() || host && (a == w.node.Addr || slices.Contains(w.node.Local, a)) ||
		slices.ContainsFunc(w.sandbox.Addrs, func(have plan.Addr) bool { return have.Prefix.Addr() == a })
}

// set changes a field, as a rule's "set" does.
func (p *packet) set(name, value string) bool {
	switch name {
	case "meta mark":
		return parseMark(value, &p.mark)
	case "ct mark":
		return parseMark(value, &p.ctMark)
	case "ct original zone":
		n, err := strconv.ParseUint(value, 10, 16)
		p.zone = uint16(n)
		return err == nil
	case "ether saddr":
		return parseMAC(value, &p.etherSrc)
	case "ether daddr":
		return parseMAC(value, &p.etherDst)
	default:
		return false
	}
}

func parseMark(text string, into *uint32) bool {
	n, err := strconv.ParseUint(text, 0, 32)
	*into = uint32(n)
	return err == nil
}

func parseMAC(text string, into *plan.MAC) bool {
	const length = len("02:53:e0:00:00:01")
	if len(text) != length {
		return false
	}
	for i := range into {
		n, err := strconv.ParseUint(text[3*i:3*i+2], 16, 8)
		if err != nil {
			return false
		}
		into[i] = byte(n)
	}
	return true
}
