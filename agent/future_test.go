package agent

import (
	"log/slog"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

func today() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// written is a record of a node at some time.
func written(r mesh.Record, writer mesh.NodeID, at uint64) mesh.Record {
	r.Version, r.Claim = mesh.Version{Time: at, Writer: writer}, at
	return r
}

// One record of the far future would be the last that anybody can write.
func TestMergeRefusesTheFarFuture(t *testing.T) {
	clock := &clock{at: today()}
	c, _ := member(t, scene.New(t, 2), clock)
	after := func(d time.Duration) uint64 { return uint64(today().Add(d).UnixMicro()) }
	poison := written(service("poison", 1), scene.NodeID(2), 1<<62)
	tomb := written(tombstone(service("", 2)), scene.NodeID(2), after(25*time.Hour))
	good := written(service("web", 3), scene.NodeID(2), after(23*time.Hour))
	fresh := c.Merge([]mesh.Record{poison, tomb, good})
	if len(fresh) != 1 || fresh[0].ID != good.ID || c.state.Seen() != good.Version.Time {
		t.Fatalf("fresh are %v, seen is %d", fresh, c.state.Seen())
	}
	if _, err := c.update(writes(service("mine", 4))); err != nil {
		t.Fatal(err)
	}
	// A clock that was never set says nothing about others.
	clock.set(time.Unix(1000, 0))
	if fresh := c.Merge([]mesh.Record{tomb}); len(fresh) != 1 {
		t.Fatal("a node without a clock hears nobody")
	}
}

// A store that was written in the far future heals: others' records are left out, this node's
// own count from now.
func TestPoisonedStoreHeals(t *testing.T) {
	w := scene.New(t, 2)
	late := uint64(today().AddDate(1, 0, 0).UnixMicro())
	slotted := *w.State.Snapshot().Node(scene.NodeID(1))
	slotted.SlotClaim = late
	records := append(w.State.Records(),
		written(service("poison", 1), scene.NodeID(2), 1<<62), written(service("mine", 2), scene.NodeID(1), late),
		written(mesh.NodeRecord(&slotted), scene.NodeID(1), late))
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	kept := someMembership(t)
	if err := s.putMembership(kept, records); err != nil {
		t.Fatal(err)
	}
	c := newCluster(clusterConfig{
		Store: s, Own: slotted, Gossip: netip.MustParseAddrPort("192.0.2.11:7956"),
		Now: (&clock{at: today()}).now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, &saved{ID: scene.NodeID(1), Member: kept, Records: records})
	if _, err := c.update(writes(service("new", 3))); err != nil {
		t.Fatal(err)
	}
	s.close()
	for _, snap := range []*mesh.Snapshot{c.snapshot(), merged(reopened(t, dir).Records)} {
		if snap.ServiceNamed("mine") == nil || snap.ServiceNamed("new") == nil || snap.Node(scene.NodeID(1)).Slot != slotted.Slot {
			t.Fatalf("services are %v, the node is %v", snap.Services, snap.Node(scene.NodeID(1)))
		}
	}
	if snap := c.snapshot(); snap.ServiceNamed("poison") != nil || len(c.leftOut()) != 1 {
		t.Fatalf("left out are %v", c.leftOut())
	}
	for _, r := range c.state.Records() {
		if r.Version.Time > uint64(today().Add(time.Hour).UnixMicro()) {
			t.Errorf("%s %s is still of the future", r.Kind, r.ID)
		}
	}
}

func merged(records []mesh.Record) *mesh.Snapshot {
	var state mesh.State
	for _, r := range records {
		state.Merge(r)
	}
	return state.Snapshot()
}

// A clock that is a year ahead for a moment, and tells peers so, does not make later writes
// ones of the future.
func TestClockAheadForAMoment(t *testing.T) {
	at := &clock{at: today()}
	c, _ := member(t, scene.New(t, 2), at)
	at.set(today().AddDate(1, 0, 0))
	if told := c.Now(); told < mesh.Micros(today().AddDate(1, 0, 0)) {
		t.Fatalf("told %d", told)
	}
	at.set(today())
	if _, err := c.update(writes(service("web", 1))); err != nil {
		t.Fatal(err)
	}
	r, ok := c.state.Get(service("web", 1).Key())
	if err := r.WrittenBy(mesh.LatestBelieved(today())); !ok || err != nil {
		t.Errorf("written: %v, %v", ok, err)
	}
	before := c.contacts
	c.Met(scene.NodeID(2), mesh.Micros(today().AddDate(1, 0, 0)))
	if !reflect.DeepEqual(before, c.contacts) {
		t.Error("a peer of the future is believed to have told everything until then")
	}
}
