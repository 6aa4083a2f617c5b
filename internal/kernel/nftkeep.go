package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// What packets have put into learned sets outlives a change of the rules around them:
// instead of the table all in it is deleted but those sets, in the transaction that
// brings the new rules.

// nameless begins the kernel's own names of the sets that stand in rules.
const nameless = "__"

// keepText is loadText for a table whose learned sets are to stay. It is "" where none of
// them is there, and where the table itself is not as ours are.
func (n *namespace) keepText(t *plan.Table, stamp string) (string, error) {
	if !slices.ContainsFunc(t.Sets, func(s *plan.Set) bool { return s.Learned > 0 }) {
		return "", nil
	}
	family, err := familyOf(t.Family)
	if err != nil {
		return "", err
	}
	if ours, err := n.hasPlainTable(family); !ours {
		return "", err
	}
	sets, err := n.readSetNames(family)
	if err != nil {
		return "", err
	}
	stay := false
	for _, s := range t.Sets {
		if s.Learned > 0 && sets[s.Name] {
			delete(sets, s.Name)
			stay = true
		}
	}
	if !stay {
		return "", nil
	}
	chains, err := n.readChains(family)
	if err != nil {
		return "", err
	}
	table := t.Family + " " + plan.TableName
	var text strings.Builder
	fmt.Fprintf(&text, "flush table %s\n", table)
	for _, c := range slices.Sorted(maps.Keys(chains)) {
		fmt.Fprintf(&text, "delete chain %s %s\n", table, c)
	}
	for _, s := range slices.Sorted(maps.Keys(sets)) {
		if strings.HasPrefix(s, nameless) {
			continue // it goes with its rule
		}
		fmt.Fprintf(&text, "delete set %s %s\n", table, s)
	}
	return text.String() + t.Ruleset() + sumText(t, stamp), nil
}

// hasPlainTable tells whether our table is there without flags, one of which lets its
// rules sleep.
func (n *namespace) hasPlainTable(family nftables.TableFamily) (bool, error) {
	conn, err := n.nftConn()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		n.nft.close()
		return false, fmt.Errorf("list nft tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == plan.TableName && t.Flags == 0 }), nil
}
