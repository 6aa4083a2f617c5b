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

// A target without a port stands for all ports of its address, and only for that one's.
func TestFlowsOnAnyPort(t *testing.T) {
	n := testNamespace(t)
	one, two := plan.Flow{Addr: netip.MustParseAddr("10.192.0.1")}, plan.Flow{Addr: netip.MustParseAddr("10.192.0.2")}
	insert(t, n, 0, "udp 10.192.0.7:4001 10.192.14.1:80 10.192.0.1:80 10.192.0.7:4001")
	insert(t, n, 0, "udp 10.192.0.7:4002 10.192.14.1:81 10.192.0.1:81 10.192.0.7:4002")
	insert(t, n, 0, "udp 10.192.0.7:4003 10.192.14.1:80 10.192.0.2:80 10.192.0.7:4003")
	insert(t, n, 0, "udp 10.192.0.7:4004 10.192.0.1:80 10.192.0.1:80 10.192.0.7:4004") // dialled by its own address
	gone, err := n.observeFlows([]plan.Flow{one, two})
	if err != nil || len(gone) > 0 {
		t.Fatalf("with both there, flows to %v are to go; %v", gone, err)
	}
	gone, err = n.observeFlows([]plan.Flow{two})
	if err != nil || !slices.Contains(gone, one) || slices.Contains(gone, two) {
		t.Fatalf("flows to %v are to go; %v", gone, err)
	}
	for _, f := range gone {
		if err := n.doFlow(f); err != nil {
			t.Fatal(err)
		}
	}
	left, err := flowsOf(n.fd)
	if err != nil {
		t.Fatal(err)
	}
	var ports []uint16
	for _, f := range left {
		ports = append(ports, f.from.Port())
	}
	slices.Sort(ports)
	if !slices.Equal(ports, []uint16{4003, 4004}) {
		t.Errorf("the flows of ports %v are left, want those of 4003 and 4004", ports)
	}
}
