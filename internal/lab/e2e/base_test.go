package e2e

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
)

// TestBase is what one node does for its own endpoints: bridge networks and ports in mode host.
func TestBase(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	b := startBase(t, 1)
	b.populate(t)
	t.Run("Matrix", func(t *testing.T) { testMatrix(t, b, matrix.Cells()) })
}

// testMatrix tries cells one after the other: what arrives at an endpoint is then of one.
func testMatrix(t *testing.T, b *base, cells []matrix.Cell) {
	t.Helper()
	var wrong []string
	for _, c := range cells {
		if got, want := b.try(c), b.expected(c); got != want {
			wrong = append(wrong, c.Name()+": "+got+", want: "+want+" ("+c.Model+")")
		}
	}
	t.Logf("%d cells, %d wrong", len(cells), len(wrong))
	if len(wrong) > 0 {
		t.Errorf("wrong:\n  %s", strings.Join(wrong, "\n  "))
	}
}
