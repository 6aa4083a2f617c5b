package e2e

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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

// testUntracked looks for the tunnels' frames in the nodes' conntrack, after all that traffic: there
// is the client's connection to the published port, and no frame.
func testUntracked(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	const vxlan = 4789
	for _, n := range c.Nodes {
		ports := map[uint16]int{}
		err := n.Do(func() error {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
			for _, f := range flows {
				ports[f.Forward.DstPort]++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if ports[cluster.Published] == 0 || ports[vxlan] > 0 {
			t.Errorf("%s tracks %d connections to the published port and %d to the tunnel's", n.Name, ports[cluster.Published], ports[vxlan])
		}
	}
}
