package kernel

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The last target goes right after another one: its flows are forgotten too.
func TestFlowsOfLastTarget(t *testing.T) {
	n := testNamespace(t)
	one := plan.Flow{Addr: netip.MustParseAddr("198.18.0.1"), Port: 80}
	two := plan.Flow{Addr: netip.MustParseAddr("198.18.0.2"), Port: 80}
	insert(t, n, 0, "udp 192.0.2.7:4001 169.254.77.2:8080 198.18.0.1:80 192.0.2.7:4001")
	insert(t, n, 0, "udp 192.0.2.7:4002 169.254.77.2:8080 198.18.0.2:80 192.0.2.7:4002")
	for _, step := range []struct{ want, gone []plan.Flow }{
		{[]plan.Flow{one, two}, nil},
		{[]plan.Flow{two}, []plan.Flow{one}},
		{nil, []plan.Flow{two}},
		{nil, nil},
	} {
		gone, err := n.observeFlows(step.want)
		if err != nil || !slices.Equal(gone, step.gone) {
			t.Fatalf("targets %v: flows to %v are to go, want %v; %v", step.want, gone, step.gone, err)
		}
		for _, f := range gone {
			if err := n.doFlow(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	left, err := n.readFlows()
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
