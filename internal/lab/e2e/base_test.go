package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// TestBase is what one node does for its own endpoints: bridge networks and ports in mode host.
func TestBase(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	b := startBase(t, 1)
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	for _, tt := range []struct {
		name string
		try  func(*testing.T, *base)
	}{
		{"Matrix", testAllCells},
		{"BridgeNetfilter", testBridgeNetfilter},
		{"WayOut", testWayOut},
		{"Ping", testPing},
		{"Listed", testListed},
		{"Range", testRange},
		{"Sources", testSources},
		{"HostedOverlay", testHostedOverlay},
		{"Held", testHeldHosted},
		{"Hygiene", testHygiene},
		{"DistinctLoopbacks", testDistinctLoopbacks},
		{"Taken", testTaken},
		{"FirstAnswer", testFirstAnswer},
		{"Refusals", testRefusals},
		{"Settings", testSettings},
		{"GatewayChoice", testGatewayChoice},
		{"GatewayMesh", testGatewayMesh},
		{"Steady", testSteady},
		{"HotConnect", testHotConnect},
		{"Announced", testAnnounced},
		{"Advertisement", testAdvertisement},
		{"Names", testScopes},
		{"Forwarding", testForwarding},
		{"NoProcess", testNoProcess},
		{"Foreign", testForeign},
		{"ForwardPolicy", testForwardPolicy},
		{"Flush", testFlush},
		{"NamesBack", testNamesBack},
		{"Restart", testRestart},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.try(t, b) })
	}
}

// testMatrix tries cells one after the other: what arrives at an endpoint is then of one.
func testMatrix(t *testing.T, b *base, cells []matrix.Cell) {
	t.Helper()
	compareCells(t, cells, func(c matrix.Cell) (got, want string) { return b.try(c), b.expected(c) })
}

func compareCells(t *testing.T, cells []matrix.Cell, try func(matrix.Cell) (got, want string)) {
	t.Helper()
	const most = 30 // then it is not single cells that are wrong
	var wrong []string
	for i, c := range cells {
		if len(wrong) == most {
			t.Logf("%d cells are left out", len(cells)-i)
			break
		}
		if got, want := try(c); got != want {
			wrong = append(wrong, c.Name()+": "+got+", want: "+want+" ("+c.Model+")")
		}
	}
	t.Logf("%d cells, %d wrong", len(cells), len(wrong))
	if len(wrong) > 0 {
		t.Errorf("wrong:\n  %s", strings.Join(wrong, "\n  "))
	}
}

// testBridgeNetfilter is the matrix where what stays on a bridge is shown to the host's rules
// too, as container engines have it: a port that is published is then translated on the bridge.
func testBridgeNetfilter(t *testing.T, b *base) {
	t.Helper()
	if !b.bridgeNetfilter(t, "1") {
		return // this kernel has no such thing
	}
	defer b.bridgeNetfilter(t, "0")
	testAllCells(t, b)
}

// bridgeNetfilter sets that on the node, where its kernel knows it.
func (b *base) bridgeNetfilter(t *testing.T, value string) bool {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		return false
	}
	for _, key := range []string{"iptables", "ip6tables"} {
		said(t, b.node.Space, "sysctl", "-q", "-w", "net.bridge.bridge-nf-call-"+key+"="+value)
	}
	return true
}

// testRestart kills the agent: every cell stays as it is while it is dead, and when it is back.
func testRestart(t *testing.T, b *base) { t.Helper(); b.restart(t, spread(matrix.Cells())) }

func (b *base) restart(t *testing.T, some []matrix.Cell) {
	t.Helper()
	if err := b.node.KillAgent(); err != nil {
		t.Fatal(err)
	}
	testMatrix(t, b, some)
	before := said(t, b.node.Space, "nft", "-s", "list", "table", "inet", plan.TableName)
	if err := b.node.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.rest(t)
	if after := said(t, b.node.Space, "nft", "-s", "list", "table", "inet", plan.TableName); after != before {
		t.Errorf("the rules differ after the restart:\n%s", cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")))
	}
	testMatrix(t, b, some)
}

// spread are one in seven: every row with every network, family and protocol in turn.
func spread(cells []matrix.Cell) []matrix.Cell {
	var some []matrix.Cell
	for i := 0; i < len(cells); i += 7 {
		some = append(some, cells[i])
	}
	return some
}

func testAllCells(t *testing.T, b *base) { t.Helper(); testMatrix(t, b, matrix.Cells()) }
