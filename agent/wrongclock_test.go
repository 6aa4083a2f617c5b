package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// A node does not give gossip another key by its schedule where the others would not take it: its
// clock is ahead, or it has heard of nobody yet what time it is.
func TestNoKeysByAWrongClock(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	c := a.cluster(t, first, nil, b.self())
	at := &clock{at: time.Now()}
	c.now, c.keyPeriod = at.now, 12*time.Hour
	rotated := func() bool {
		t.Helper()
		if err := c.refresh(c.snapshot(), c.member); err != nil {
			t.Fatal(err)
		}
		k, _ := c.keyringLocked(c.member)
		return k != nil
	}
	at.set(time.Now().Add(48 * time.Hour))
	if rotated() {
		t.Fatal("rotated where nobody was met")
	}
	c.Met(b.ID(), mesh.Micros(time.Now()))
	if rotated() {
		t.Fatal("rotated two days ahead of the other")
	}
	c.Met(b.ID(), mesh.Micros(at.now()))
	if !rotated() {
		t.Error("not rotated though both have the same time")
	}
}

// What was written while the clock was two days ahead counts once it is right, and the others take
// it; nothing of others is lost by a clock that goes back.
func TestWrittenAheadHeals(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	ca, cb := a.cluster(t, first, nil, b.self()), b.cluster(t, first, nil, a.self())
	at := &clock{at: time.Now().Add(48 * time.Hour)}
	ca.now = at.now
	if _, err := ca.rotateKeys(); err != nil { // by command
		t.Fatal(err)
	}
	if fresh := cb.Merge(ca.state.Records()); len(fresh) != 0 {
		t.Fatalf("the other takes %d records of the future", len(fresh))
	}
	at.set(time.Now())
	if err := ca.refresh(ca.snapshot(), ca.member); err != nil {
		t.Fatal(err)
	}
	cb.Merge(ca.state.Records())
	if keys := must(cb.gossipKeysOf(cb.member)); !slices.Contains(keys, must(ca.gossipKeysOf(ca.member))[0]) || len(keys) != 2 {
		t.Error("the other does not read by the key of the one that was ahead")
	}
	at.set(time.Now().Add(-10 * 24 * time.Hour))
	ca.healed = time.Time{}
	if err := ca.refresh(ca.snapshot(), ca.member); err != nil {
		t.Fatal(err)
	}
	if snap := ca.snapshot(); snap.Node(b.ID()) == nil || snap.Node(a.ID()) == nil {
		t.Error("a clock that went back has cost a node")
	}
}
