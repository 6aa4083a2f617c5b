package plan

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Rule chooses the routing table for what is sent from one address. Its key is (Priority, From).
type Rule struct {
	Priority uint32 // the lesser is asked first
	From     netip.Addr
	Table    uint32 // MainTable, or an OwnTable
	// Longer leaves a default route of the table out: the next rule is asked.
	Longer bool
}

// MainTable is where a Route without a table is.
const MainTable = 254

// The priorities of our rules. They are the last before the main table's (32766), so that those which the
// workload has go before ours: what its programs add without a priority is put before all that are there
// (fib_default_rule_pref), whether it comes before ours or after.
const (
	ownRules  = 32764 // of an address: the main table but for its default route
	ownTables = 32765 // then the way out by the address's interface
)

// OwnTable is the number of the routing table for what is sent from an interface: its IPv4 address, which no
// other interface of the namespace has. Networks have no address below 1.0.0.0, and kernels no table of
// their own above 255.
func OwnTable(v4 netip.Addr) uint32 {
	a := v4.As4()
	return binary.BigEndian.Uint32(a[:])
}

// IsOwnTable tells whether a table may be an OwnTable.
func IsOwnTable(table uint32) bool { return table >= 1<<24 }

// IsOwnRule tells whether a rule of this priority may be of ours.
func IsOwnRule(priority uint32) bool { return priority == ownRules || priority == ownTables }

// Exit is how one interface of a namespace leads to the world.
type Exit struct {
	Link       string
	V4, V6     netip.Addr // its addresses
	Via4, Via6 netip.Addr // its next hops
}

// AnsweredBy has what is sent from the interface's addresses leave by it, wherever the default route is.
// Longer routes hold for it as for all else.
func (s *Sandbox) AnsweredBy(e Exit) {
	table := OwnTable(e.V4)
	for _, from := range []netip.Addr{e.V4, e.V6} {
		s.Rules = append(
			s.Rules,
			Rule{Priority: ownRules, From: from, Table: MainTable, Longer: true},
			Rule{Priority: ownTables, From: from, Table: table},
		)
	}
	for _, r := range e.defaults() {
		r.Table = table
		s.Routes = append(s.Routes, r)
	}
}

// DefaultBy has all that no other route is for leave by the interface, whose addresses do not matter.
func (s *Sandbox) DefaultBy(e Exit) { s.Routes = append(s.Routes, e.defaults()...) }

func (e Exit) defaults() []Route {
	return []Route{
		{Kind: RouteVia, Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: e.Via4, Link: e.Link},
		{Kind: RouteVia, Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: e.Via6, Link: e.Link},
	}
}

// String says it in the words of ip rule.
func (r Rule) String() string {
	table := "main"
	if r.Table != MainTable {
		table = fmt.Sprint(r.Table)
	}
	text := fmt.Sprintf("rule     %d from %s lookup %s", r.Priority, r.From, table)
	if r.Longer {
		text += " suppress_prefixlength 0"
	}
	return text
}

// CompareRule is the order in which rules of one sandbox are asked.
func CompareRule(a, b Rule) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.From.Compare(b.From))
}
