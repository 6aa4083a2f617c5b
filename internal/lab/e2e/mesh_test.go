package e2e

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/table"
)

// testMesh wants every cell of the table as expected.
func testMesh(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	cells := table.Run(table.All(c))
	var text strings.Builder
	if err := cells.Print(&text); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", text.String())
	for _, cell := range cells.Wrong() {
		t.Errorf("%s: seen %q, want %q", cell.Name(), cell.Got, cell.Want)
	}
}
