package kernel

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/plan"
)

func smallTable() *plan.Table {
	t := &plan.Table{Family: "inet"}
	t.Set("published", plan.FieldProto, plan.FieldPort).Add("tcp", "8080")
	t.Map("services4", plan.FieldMark, plan.FieldIPv4, plan.FieldProto, plan.FieldPort).Put("0x101", "169.254.77.2", "tcp", "8080")
	t.Chain("capture", "").Rule("meta l4proto . th dport @published counter accept", "counter")
	t.Chain("forward", "type filter hook forward priority filter; policy drop;").Rule("jump capture")
	return t
}

// held is t as the kernel would give it back.
func held(t *plan.Table) loadedTable {
	return loadedTable{family: t.Family, sum: skeletonSum(t), intact: true, sets: t.Sets}
}

func lines(ops []Op) []string {
	var out []string
	for _, o := range ops {
		out = append(out, o.String())
	}
	return out
}

func TestDiffNFT(t *testing.T) {
	otherRules := smallTable()
	otherRules.Chain("capture", "").Rule("drop")
	otherElements := smallTable()
	otherElements.Sets[0].Elements = nil
	otherElements.Set("published").Add("udp", "53")
	otherElements.Sets[1].Elements[0].Value = "0x102"
	broken := held(smallTable())
	broken.intact = false
	netdev := &plan.Table{Family: "netdev"}
	for _, c := range []struct {
		name string
		want []*plan.Table
		have []loadedTable
		ops  []string
	}{
		{"nothing", nil, nil, nil},
		{"absent", []*plan.Table{smallTable()}, nil, []string{"add s: nft table inet sluice"}},
		{"equal", []*plan.Table{smallTable()}, []loadedTable{held(smallTable())}, nil},
		{"rules differ", []*plan.Table{smallTable()}, []loadedTable{held(otherRules)}, []string{"replace s: nft table inet sluice"}},
		{"rules missing", []*plan.Table{smallTable()}, []loadedTable{broken}, []string{"replace s: nft table inet sluice"}},
		{
			"elements differ", []*plan.Table{smallTable()},
			[]loadedTable{held(otherElements)},
			[]string{"replace s: nft elements inet published +1 -1, services4 +1 -1"},
		},
		{
			"one comes, one goes", []*plan.Table{netdev},
			[]loadedTable{held(smallTable())},
			[]string{"add s: nft table netdev sluice", "delete s: nft table inet sluice"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.ops, lines(diffNFT("s", c.want, c.have))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDiffElementsOfMap(t *testing.T) {
	have := smallTable()
	have.Sets[1].Elements[0].Value = "0x102"
	h := held(have)
	got := diffElements(smallTable(), &h)
	key := "169.254.77.2 . tcp . 8080"
	want := ElementChange{Family: "inet", Sets: []SetChange{{
		Set:  plan.Set{Name: "services4", Key: have.Sets[1].Key, Value: have.Sets[1].Value},
		Come: []plan.Element{{Key: key, Value: "0x101"}},
		Gone: []plan.Element{{Key: key, Value: "0x102"}},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
