package agent

import (
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// A node says once a day until when it has everything, not before it has met all, and only
// where that lets a tombstone go.
func TestSyncedIsSaid(t *testing.T) {
	clock := &clock{at: today()}
	c, _ := member(t, scene.New(t, 3), clock)
	said := func() uint64 {
		if _, _, err := c.settle(); err != nil {
			t.Fatal(err)
		}
		return c.snapshot().Node(scene.NodeID(1)).Synced
	}
	if at := said(); at != 0 {
		t.Fatalf("in sync until %d with nodes that it has not met", at)
	}
	first := mesh.Micros(today())
	c.Met(scene.NodeID(2), first)
	c.Met(scene.NodeID(3), first-5)
	if at := said(); at != 0 {
		t.Fatalf("in sync until %d, with nothing to drop", at)
	}
	c.contacts = mesh.Contacts{}
	old := mesh.Record{Kind: mesh.KindService, ID: string(newID[mesh.ServiceID]()), Deleted: true}
	c.Merge([]mesh.Record{written(old, scene.NodeID(2), mesh.Micros(today().Add(-mesh.Horizon-time.Hour)))})
	c.Met(scene.NodeID(2), first)
	if at := said(); at != 0 {
		t.Fatalf("in sync until %d with a node that it has not met", at)
	}
	c.Met(scene.NodeID(3), first-5)
	if at := said(); at != first-5 {
		t.Fatalf("in sync until %d, want %d", at, first-5)
	}
	clock.set(today().Add(time.Hour))
	for _, id := range []mesh.NodeID{scene.NodeID(2), scene.NodeID(3)} {
		c.Met(id, c.Now())
	}
	if at := said(); at != first-5 {
		t.Errorf("said again after an hour: %d", at)
	}
	clock.set(today().Add(25 * time.Hour))
	for _, id := range []mesh.NodeID{scene.NodeID(2), scene.NodeID(3)} {
		c.Met(id, c.Now())
	}
	if at := said(); at < mesh.Micros(today().Add(25*time.Hour)) {
		t.Errorf("not said again after a day: %d", at)
	}
}
