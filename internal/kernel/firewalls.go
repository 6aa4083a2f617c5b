package kernel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netns"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Firewall is a table of another program that is asked about what the host forwards
// or receives.
type Firewall struct {
	Table   string   // "iptables table filter", "nft table inet firewalld"
	Chains  []string // its base chains that are asked: those that forward first
	Unread  error    // why nobody can tell what is in it; the rest is not known then
	Forward Forward
	Closed  []Closed // ports of those asked about that it may drop
}

// Forward is what becomes of the mesh's packets in a Firewall.
type Forward string

// What it may be. Rules that name what they drop are not judged.
const (
	Through   Forward = "through"   // nothing in it drops what no rule names
	Let       Forward = "let"       // it drops that, and lets sluice's devices through by sluice's own rules
	Forbidden Forward = "forbidden" // it drops that, sluice's traffic too
)

// PortUse is a port of the host that other nodes have to reach.
type PortUse struct {
	Proto string // tcp or udp
	Port  uint16
}

func (p PortUse) String() string { return fmt.Sprintf("%s/%d", p.Proto, p.Port) }

// Closed is a port that a Firewall may drop packets to: it drops what no rule names,
// and no rule is seen that accepts the port. An accept by address, or by a set, is not
// taken for one.
type Closed struct {
	PortUse
	Open string // a command that opens it to everybody
}

// Firewalls looks at other programs' rules in the network namespace of the calling
// goroutine's thread, without an agent, and changes nothing. ports are those that
// other nodes have to reach.
func Firewalls(ports ...PortUse) ([]Firewall, error) {
	fd, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	n := &namespace{name: plan.HostSandbox, kind: plan.KindHost, fd: fd}
	defer n.close()
	tables, err := n.readForeign()
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found := make([]Firewall, len(tables))
	for i, t := range tables {
		f := Firewall{
			Table: t.String(), Chains: append(t.baseChains(hookForward), t.baseChains(hookInput)...),
			Unread: t.unread, Forward: t.forward(),
		}
		if len(t.places(hookInput)) > 0 && len(ports) > 0 {
			rules, err := n.listForeign(t.tableRef)
			if err != nil {
				return nil, err
			}
			f.Closed = closed(t, rules, ports)
		}
		found[i] = f
	}
	return found, nil
}

// forward looks for our rules where they have to stand, whatever they are for: which
// passages there are is the plan's business.
func (t *foreignTable) forward() Forward {
	places := t.places(hookForward)
	if len(places) == 0 {
		return Through
	}
	for _, p := range places {
		if p.index == 0 || t.chains[p.chain].rules[p.index-1].ours == (plan.Passage{}) {
			return Forbidden
		}
	}
	return Let
}

// listForeign is a table's rules as the program that they belong to writes them, with
// numbers for ports.
func (n *namespace) listForeign(ref tableRef) (string, error) {
	if ref.Tool != toolNFT {
		text, err := n.runIPTables(ref, "", "", "-t", ref.Name, "-S")
		if err == nil || !incompatible(err) && !isMissing(err) {
			return text, err
		}
	}
	return n.listTable(ref.Family, ref.Name, "-n")
}

func closed(t *foreignTable, rules string, ports []PortUse) []Closed {
	var all []Closed
	for _, p := range ports {
		if !accepted(rules, p) {
			all = append(all, Closed{p, t.opening(p)})
		}
	}
	return all
}

// accepted tells whether a rule accepts the port by its number.
func accepted(rules string, p PortUse) bool {
	for line := range strings.Lines(rules) {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n,{}", r) })
		accepts := slices.Contains(words, "accept") || slices.Contains(words, "ACCEPT")
		if !accepts || slices.Contains(words, otherThan(p.Proto)) {
			continue
		}
		for i, w := range words {
			if strings.TrimLeft(w, "-") != "dport" && w != "--dports" {
				continue
			}
			for _, number := range words[i+1:] {
				if covers(number, p.Port) {
					return true
				}
				if number[0] < '0' || number[0] > '9' {
					break
				}
			}
		}
	}
	return false
}

func otherThan(proto string) string {
	if proto == "tcp" {
		return "udp"
	}
	return "tcp"
}

// covers tells whether text is the port, or a range that it is in: 1-2 or 1:2.
func covers(text string, port uint16) bool {
	first, last, several := strings.Cut(strings.Replace(text, ":", "-", 1), "-")
	if !several {
		last = first
	}
	low, err := strconv.ParseUint(first, 10, 16)
	if err != nil {
		return false
	}
	high, err := strconv.ParseUint(last, 10, 16)
	return err == nil && low <= uint64(port) && uint64(port) <= high
}

// opening is the command of whoever keeps the table.
func (t *foreignTable) opening(p PortUse) string {
	at := t.baseChains(hookInput)[0]
	_, ufw := t.chains["ufw-user-input"]
	_, ufw6 := t.chains["ufw6-user-input"]
	switch {
	case ufw || ufw6:
		return fmt.Sprintf("ufw allow %d/%s", p.Port, p.Proto)
	case t.Tool == toolNFT && t.Name == "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/%s && firewall-cmd --reload", p.Port, p.Proto)
	case t.Tool == toolNFT:
		return fmt.Sprintf("nft insert rule %s %s %s %s dport %d accept", t.Family, t.Name, at, p.Proto, p.Port)
	default:
		return fmt.Sprintf("%s -I %s -p %s --dport %d -j ACCEPT", program(t.Tool, t.Family), at, p.Proto, p.Port)
	}
}
