package kernel

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// skeletonSum identifies a table's rules and set types. It is kept in the kernel
// beside them (nft.go), because rules cannot be read back as text.
func skeletonSum(t *plan.Table) string {
	sum := sha256.Sum256([]byte(t.Skeleton()))
	return hex.EncodeToString(sum[:8])
}

// diffNFT says what to do to a sandbox's tables: load one whose rules are not
// the wanted ones, change elements where only those differ, delete what is ours
// and no longer wanted.
func diffNFT(sandbox string, want []*plan.Table, have []loadedTable) []Op {
	loaded := make(map[string]*loadedTable, len(have))
	for i := range have {
		loaded[have[i].family] = &have[i]
	}
	wanted := make(map[string]bool, len(want))
	var ops []Op
	for _, t := range want {
		wanted[t.Family] = true
		h := loaded[t.Family]
		switch {
		case h == nil:
			ops = append(ops, Op{Add, sandbox, TableLoad{t}})
		case !h.intact || h.sum != skeletonSum(t):
			ops = append(ops, Op{Replace, sandbox, TableLoad{t}})
		default:
			if change := diffElements(t, h); len(change.Sets) > 0 {
				ops = append(ops, Op{Replace, sandbox, change})
			}
		}
	}
	for _, h := range have {
		if !wanted[h.family] {
			ops = append(ops, Op{Delete, sandbox, TableLoad{&plan.Table{Family: h.family}}})
		}
	}
	return ops
}

// diffElements compares the sets of a table whose rules are the wanted ones, in
// the order in which the plan has them.
func diffElements(want *plan.Table, have *loadedTable) ElementChange {
	present := make(map[string]*plan.Set, len(have.sets))
	for _, s := range have.sets {
		present[s.Name] = s
	}
	change := ElementChange{Family: want.Family}
	for _, w := range want.Sets {
		if w.Learned > 0 {
			continue
		}
		var held []plan.Element
		if h := present[w.Name]; h != nil {
			held = h.Elements
		}
		c := SetChange{Set: plan.Set{Name: w.Name, Key: w.Key, Value: w.Value}}
		c.Come, c.Gone = notIn(w.Elements, held), notIn(held, w.Elements)
		if len(c.Come)+len(c.Gone) > 0 {
			change.Sets = append(change.Sets, c)
		}
	}
	return change
}

// notIn gives the elements of a that b does not hold with the same value.
func notIn(a, b []plan.Element) []plan.Element {
	values := make(map[plan.Element]bool, len(b))
	for _, e := range b {
		values[e] = true
	}
	var out []plan.Element
	for _, e := range a {
		if !values[e] {
			out = append(out, e)
		}
	}
	return out
}
