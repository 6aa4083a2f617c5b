package kernel

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// After a change of our own nothing is read, and what is remembered is what reading gives.
func TestOwnChangeIsNotReadBack(t *testing.T) {
	n := testNamespace(t)
	table := manyElements(1000)
	bring(t, n, table)
	for range trustedReads {
		bring(t, n, table)
	}
	next := manyElements(1010)
	next.Sets[1].Elements = slices.Delete(next.Sets[1].Elements, 5, 9)
	next.Sets[1].Elements[7].Value = "0x777"
	next.Set("published").Add("udp", "53")
	expect(t, bring(t, n, next), "replace s: nft elements inet published +1 -0, services4 +11 -5")
	remembered := n.nft.last
	if remembered.reads < trustedReads {
		t.Fatal("the change was not followed")
	}
	expect(t, bring(t, n, next))
	n.nft.last = nftReading{}
	read, err := n.observeNFT([]*plan.Table{next})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(read, remembered.tables, gocmp.AllowUnexported(loadedTable{})); diff != "" {
		t.Errorf("remembered is something else than what is there (-there +remembered):\n%s", diff)
	}
}

// What another program changes just before, or just after, a change of ours is seen.
func TestOthersChangeBesideOwn(t *testing.T) {
	foreign := func(t *testing.T, n *namespace) {
		t.Helper()
		nftProgram(t, n, "add element inet sluice published { udp . 99 }\n", "-f", "-")
	}
	for name, other := range map[string]func(*testing.T, *namespace, ElementChange){
		"before": func(t *testing.T, n *namespace, c ElementChange) {
			t.Helper()
			foreign(t, n)
			if err := n.changeElements(c); err != nil {
				t.Fatal(err)
			}
		},
		"after": func(t *testing.T, n *namespace, c ElementChange) {
			t.Helper()
			if err := n.changeElements(c); err != nil {
				t.Fatal(err)
			}
			foreign(t, n)
		},
		"before it is followed": func(t *testing.T, n *namespace, c ElementChange) {
			t.Helper()
			before := n.nft.last
			if err := n.sendElements(c); err != nil {
				t.Fatal(err)
			}
			foreign(t, n)
			n.follow(before, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNamespace(t)
			table := smallTable()
			for range 1 + trustedReads {
				bring(t, n, table)
			}
			table.Set("published").Add("udp", "53")
			change := SetChange{Set: plan.Set{Name: "published", Key: table.Sets[0].Key}, Come: []plan.Element{{Key: "udp . 53"}}}
			other(t, n, ElementChange{Family: "inet", Sets: []SetChange{change}})
			expect(t, bring(t, n, table), "replace s: nft elements inet published +0 -1")
			expect(t, bring(t, n, table))
		})
	}
}

// A table of very many elements comes in three steps; one that died between them leaves
// what the next round replaces.
func TestLargeTable(t *testing.T) {
	n := testNamespace(t)
	full := manyElements(3 * fewElements)
	expect(t, bring(t, n, full), addInet)
	expect(t, bring(t, n, full))
	listed := nftProgram(t, n, "", "list", "chain", "inet", "sluice", "capture")
	if !strings.Contains(listed, "@published") {
		t.Errorf("the rules are not there:\n%s", listed)
	}
	expect(t, bring(t, n), "delete s: nft table inet sluice")
	bare := full.Bare()
	bare.Chains = nil
	nftProgram(t, n, bare.Skeleton(), "-f", "-")
	expect(t, bring(t, n, full), replaceInet)
	expect(t, bring(t, n, full))
}

// Walking side by side finds what comparing every element with every other would.
func TestElementsToldApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) []plan.Element {
			some := rapid.MapOf(rapid.StringMatching("[a-d]{1,2}"), rapid.StringMatching("[xy]")).Draw(t, name)
			var list []plan.Element
			for _, key := range rapid.Permutation(slices.Sorted(maps.Keys(some))).Draw(t, name+" in order") {
				list = append(list, plan.Element{Key: key, Value: some[key]})
			}
			return list
		}
		want, have := draw("want"), draw("have")
		come, gone := tellApart(want, have)
		for _, e := range come {
			if !slices.Contains(want, e) || slices.Contains(have, e) {
				t.Fatalf("%v should not come", e)
			}
		}
		for _, e := range gone {
			if !slices.Contains(have, e) || slices.Contains(want, e) {
				t.Fatalf("%v should not go", e)
			}
		}
		byKey := func(a, b plan.Element) int { return cmp.Compare(a.Key, b.Key) }
		after := patched(slices.SortedFunc(slices.Values(have), byKey), gone, come)
		if other := rewritten(slices.SortedFunc(slices.Values(have), byKey), gone, come); !slices.Equal(other, after) {
			t.Fatalf("at length it is %v, in short %v", other, after)
		}
		if !slices.Equal(after, slices.SortedFunc(slices.Values(want), byKey)) {
			t.Fatalf("%v, without %v and with %v, is %v; want %v", have, gone, come, after, want)
		}
	})
}

// What is planned twice comes once.
func TestElementPlannedTwice(t *testing.T) {
	a, b := plan.Element{Key: "a"}, plan.Element{Key: "b"}
	for _, have := range [][]plan.Element{{a, b}, {a}, {b}, {}} {
		come, gone := tellApart([]plan.Element{a, a, b, b}, have)
		if len(come) != 2-len(have) || len(gone) != 0 {
			t.Errorf("%v is there: %v came, %v went", have, come, gone)
		}
	}
}
