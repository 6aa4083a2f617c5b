package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// legacyTakers are the takers among the rules of iptables' older half. Where it has no
// NAT table it is not asked: asking would make one. Where the program that could tell
// is not there, none are known.
func (n *namespace) legacyTakers() ([]taker, error) {
	const table = "nat"
	var takers []taker
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		loaded, err := n.legacyTables(family)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(loaded, table) {
			continue
		}
		text, err := n.runIPTables(tableRef{toolLegacy, string(family), table}, "", "", "-w", "5", "-t", table, "-S")
		if err != nil && !isMissing(err) {
			return nil, fmt.Errorf("list rules of iptables-legacy: %w", err)
		}
		takers = append(takers, parseLegacy(text, string(family))...)
	}
	return takers, nil
}

// parseLegacy reads what "iptables -S" prints: "-A DOCKER -d 192.0.2.1/32 ! -i docker0
// -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80".
func parseLegacy(text, family string) []taker {
	var takers []taker
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" {
			continue
		}
		r := legacyRule{taker: taker{family: family, table: "nat", chain: words[1], legacy: true, four: family == "ip", six: family == "ip6"}}
		for i := 2; i+1 < len(words); i++ {
			if words[i-1] != "!" {
				r.option(words[i], words[i+1])
			}
		}
		if r.leads && len(r.spans) > 0 {
			for i := range r.spans {
				r.spans[i].protocol = r.protocol
			}
			takers = append(takers, r.taker)
		}
	}
	return takers
}

type legacyRule struct {
	taker
	protocol uint8
	leads    bool
}

func (r *legacyRule) option(name, value string) {
	switch name {
	case "-d":
		if p, err := netip.ParsePrefix(value); err == nil && p.IsSingleIP() {
			r.addr = p.Addr()
		}
	case "-p":
		r.protocol = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[value]
	case "--dport", "--dports", "--ports":
		for ports := range strings.SplitSeq(value, ",") {
			from, to, ranged := strings.Cut(ports, ":")
			if !ranged {
				to = from
			}
			first, err := strconv.ParseUint(from, 10, 16)
			last, err2 := strconv.ParseUint(to, 10, 16)
			if err == nil && err2 == nil {
				r.spans = append(r.spans, span{first: uint16(first), last: uint16(last)})
			}
		}
	case "-j":
		r.leads = value == "DNAT" || value == "REDIRECT"
	}
}
