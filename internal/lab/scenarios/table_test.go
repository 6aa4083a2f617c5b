package scenarios

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
)

// The document, and the parts of it that tests write.
const (
	tableBegin, tableEnd   = "<!-- table -->\n", "<!-- end of table -->\n"
	spreadBegin, spreadEnd = "<!-- spread -->\n", "<!-- end of spread -->\n"
)

func document() string { return filepath.Join("..", "..", "..", "docs", "EQUIVALENCE.md") }

// replaced puts text between two marks of the document.
func replaced(t *testing.T, begin, text, end string) string {
	t.Helper()
	whole, err := os.ReadFile(document())
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(whole), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", document(), begin, end)
	}
	return before + begin + text + end + after
}

// columns are what is kept of the runs of each kernel and balancer; a run that sees something
// else fails where it is run.
func columns(t *testing.T) []Column {
	t.Helper()
	var list []Column
	for _, c := range [][2]string{
		{"fake kernel, nft", "TestScenariosFake_nft"},
		{"fake kernel, IPVS", "TestScenariosFake_ipvs"},
		{"this kernel, nft", "TestScenarios"},
		{"VM, nft", "TestScenariosBoth_nft"},
		{"VM, IPVS", "TestScenariosBoth_ipvs"},
	} {
		text, err := os.ReadFile(filepath.Join("testdata", c[1]+".golden"))
		if err != nil {
			t.Fatalf("%v: run that test with -update", err)
		}
		column, err := NewColumn(c[0], string(text))
		if err != nil {
			t.Fatalf("%s: %v", c[1], err)
		}
		list = append(list, column)
	}
	return list
}

// TestTable holds docs/EQUIVALENCE.md to what was seen: every scenario on every kernel
// with both balancers alike, or by lines of its own that say how they differ.
func TestTable(t *testing.T) {
	table, err := Table(load(t), columns(t))
	if err != nil {
		t.Fatal(err)
	}
	golden.File(t, document(), replaced(t, tableBegin, table, tableEnd))
}
