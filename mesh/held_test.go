package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// held gives a node so many held ports, in order, and lets edit spoil them.
func held(count int, edit func([]HeldPort)) func(*Node) {
	return func(n *Node) {
		for i := range count {
			n.Held = append(n.Held, HeldPort{Proto: TCP, Published: uint16(8080 + i), By: fmt.Sprintf("nginx (pid %d)", i)})
		}
		edit(n.Held)
	}
}

func drawHeld(t *rapid.T) []HeldPort {
	few := func(label string) int { return rapid.IntRange(1, 4).Draw(t, label) }
	drawn := map[PublishedPort]HeldPort{}
	for range rapid.IntRange(0, 2).Draw(t, "held") {
		h := HeldPort{Proto: TCP, Published: uint16(few("held port")), By: fmt.Sprintf("nginx (pid %d)", few("holder"))}
		if rapid.Bool().Draw(t, "held on one address") {
			h.Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(few("held addr"))})
		}
		drawn[h.Port()] = h
	}
	var all []HeldPort
	for _, h := range drawn {
		all = append(all, h)
	}
	return Reported(all)
}

// Whatever is held, what is reported of it is valid and the same in any order.
func TestReported(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []HeldPort
		for port := range rapid.IntRange(0, 2*heldLimit).Draw(t, "count") {
			all = append(all, HeldPort{Proto: rapid.SampledFrom([]Proto{TCP, UDP, SCTP}).Draw(t, "proto"), Published: uint16(port + 1), By: "x"})
		}
		got := Reported(shuffled(t, all))
		if want := Reported(all); !slices.Equal(got, want) {
			t.Fatalf("%v, in another order %v", got, want)
		}
		if len(got) != min(len(all), heldLimit) {
			t.Fatalf("%d of %d", len(got), len(all))
		}
		if err := testNode(1).WithHeld(got).Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHeldOf(t *testing.T) {
	on := func(addr string, p PublishedPort) PublishedPort { p.Addr = netip.MustParseAddr(addr); return p }
	w := newWorld(t, 0)
	for i, ports := range [][]PublishedPort{{tcp(80), tcp(81)}, {on("192.0.2.1", tcp(80))}, {tcp(82)}} {
		n := testNode(3 - i)
		for _, p := range ports {
			n.Held = append(n.Held, HeldPort{p.Addr, p.Proto, p.Published, "x"})
		}
		w.write(n.ID, NodeRecord(n))
	}
	snap := w.state.Snapshot()
	for _, c := range []struct {
		publish []PublishedPort
		want    string
	}{
		{[]PublishedPort{tcp(80), tcp(82)}, "n1 tcp/82, n3 tcp/80, "},
		{[]PublishedPort{tcp(80), tcp(81)}, "n3 tcp/80, n3 tcp/81, "},
		{[]PublishedPort{on("192.0.2.1", tcp(80))}, "n2 192.0.2.1 tcp/80, "},
		{[]PublishedPort{on("192.0.2.2", tcp(80)), {Proto: UDP, Published: 80, Target: 80}}, ""},
		{nil, ""},
	} {
		got := ""
		for _, h := range snap.HeldOf(testService(1, c.publish...)) {
			got += h.Node.Name + " " + h.Port().Front() + ", "
		}
		if got != c.want {
			t.Errorf("%v: held %q, want %q", c.publish, got, c.want)
		}
	}
}

// What a node settles keeps what it said of held ports.
func TestSettleKeepsHeld(t *testing.T) {
	w := newWorld(t, 0)
	n := testNode(1)
	held(1, func([]HeldPort) {})(n)
	w.write(n.ID, NodeRecord(n))
	if !w.settle(n.ID) {
		t.Fatal("a new node claims nothing")
	}
	if got := w.state.Snapshot().Node(n.ID); got.Slot == 0 || len(got.Held) != 1 {
		t.Errorf("settled to %+v", got)
	}
}
