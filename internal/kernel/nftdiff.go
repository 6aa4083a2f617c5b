package kernel

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

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
		c := SetChange{Set: plan.Set{Name: w.Name, Key: w.Key, Value: w.Value, Ranges: w.Ranges}}
		c.Come, c.Gone = tellApart(w.Elements, held)
		if len(c.Come)+len(c.Gone) > 0 {
			change.Sets = append(change.Sets, c)
		}
	}
	return change
}

// compareElement orders a set's elements by key, which they have once.
func compareElement(a, b plan.Element) int {
	return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
}

// inOrder is list in order, each element once; list itself, where it is so already, as
// plans and readings are.
func inOrder(list []plan.Element) []plan.Element {
	for i := range list[min(1, len(list)):] {
		if compareElement(list[i], list[i+1]) >= 0 {
			return slices.Compact(slices.SortedFunc(slices.Values(list), compareElement))
		}
	}
	return list
}

// tellApart gives what want has and have lacks, and the other way round. There may be ten
// thousands, and one that differs: what is the same at both ends is left out, and the
// rest is walked side by side.
func tellApart(want, have []plan.Element) (come, gone []plan.Element) {
	all := have
	for len(want) > 0 && len(have) > 0 && want[0] == have[0] {
		want, have = want[1:], have[1:]
	}
	for len(want) > 0 && len(have) > 0 && want[len(want)-1] == have[len(have)-1] {
		want, have = want[:len(want)-1], have[:len(have)-1]
	}
	want, have = inOrder(want), inOrder(have)
	for len(want) > 0 && len(have) > 0 {
		switch c := compareElement(want[0], have[0]); {
		case c == 0:
			want, have = want[1:], have[1:]
		case c < 0:
			come, want = append(come, want[0]), want[1:]
		default:
			gone, have = append(gone, have[0]), have[1:]
		}
	}
	come = slices.DeleteFunc(append(come, want...), func(e plan.Element) bool {
		_, twice := slices.BinarySearchFunc(all, e, compareElement) // planned twice, and one was left out
		return twice
	})
	return come, append(gone, have...)
}

// patched is held, which is in order, after a change.
func patched(held, gone, come []plan.Element) []plan.Element {
	const few = 64
	if len(gone)+len(come) > few {
		return rewritten(held, gone, come)
	}
	list := slices.Grow(slices.Clone(held), len(come))
	byKey := func(e, other plan.Element) int { return cmp.Compare(e.Key, other.Key) }
	for _, e := range gone {
		if i, found := slices.BinarySearchFunc(list, e, byKey); found {
			list = slices.Delete(list, i, i+1)
		}
	}
	for _, e := range come {
		i, found := slices.BinarySearchFunc(list, e, byKey)
		if found {
			list[i] = e
		} else {
			list = slices.Insert(list, i, e)
		}
	}
	return list
}

// rewritten is patched for changes of a large part.
func rewritten(held, gone, come []plan.Element) []plan.Element {
	gone, come = inOrder(gone), inOrder(come)
	list := make([]plan.Element, 0, len(held)+len(come))
	for _, e := range held {
		for len(come) > 0 && compareElement(come[0], e) < 0 {
			list, come = append(list, come[0]), come[1:]
		}
		for len(gone) > 0 && cmp.Compare(gone[0].Key, e.Key) < 0 {
			gone = gone[1:]
		}
		if len(gone) == 0 || gone[0].Key != e.Key {
			list = append(list, e)
		}
	}
	return append(list, come...)
}
