package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// exhausted checks that a refusal names what there was, what is used and what is free.
func exhausted(t *testing.T, err error, says ...string) {
	t.Helper()
	if ReasonOf(err) != PoolExhausted {
		t.Fatalf("got %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestNoSlotIsLeft(t *testing.T) {
	self := testNode(1)
	snap := &Snapshot{nodes: map[NodeID]*Node{self.ID: self}, Nodes: []*Node{self}}
	for i := range slotCount {
		n := testNode(i + 2)
		n.Slot = Slot(i + 1)
		snap.Nodes = append(snap.Nodes, n)
	}
	records, refused := Settle(snap, self.ID, 1)
	exhausted(t, refused[""], `node "n1"`, "of 65535 65535 are in use", "0 are free", "sluice node rm")
	if len(records) != 0 {
		t.Errorf("%v", records)
	}
}

func TestNoSubnetIsLeft(t *testing.T) {
	w := newWorld(t, 1)
	pool := netip.MustParsePrefix("192.0.0.0/18") // four subnets, and node 1 is in one
	for i := range 3 {
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i+1), fmt.Sprintf("n%d", i), nth4(pool, subnetBits4, i+1))
		if err != nil {
			t.Fatal(err)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	}
	_, err := w.state.Snapshot().freeSubnet("blue", pool)
	exhausted(t, err, "of the 4 subnets of pool 192.0.0.0/18 networks have 3, 1 are", "0 are free", "--subnet")
}

func TestNoBlockIsLeft(t *testing.T) {
	w, _ := fixedWorld(t)
	a, b := testID[NodeID]('a', 1), testID[NodeID]('a', 2)
	w.write(b, EndpointRecord(testEndpoint(2, 2, 1)))
	w.settleAll()
	for i := range 2*63 + 3 {
		w.write(a, EndpointRecord(testEndpoint(100+i, 1, 1)))
	}
	w.settleAll()
	_, refused := Settle(w.state.Snapshot(), a, w.time)
	if len(refused) != 4 {
		t.Errorf("%d refused", len(refused))
	}
	for _, err := range refused {
		exhausted(t, err, `network "blue"`, `node "n1"`, "of 3 blocks 2 are its own and 1 other nodes'", "of the 126 addresses of its own 126 are used, 0 are free", "sluice network update blue --subnet")
	}
}
