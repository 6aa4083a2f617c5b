package agent

import (
	"errors"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// What was kept in memory is found again, and a write that fails after it happened was kept.
func TestMedium(t *testing.T) {
	var m Medium
	full, asked := errors.New("full"), 0
	d := &mediumDisk{medium: &m, fault: func() error { return nil }}
	first, err := m.open()
	if err != nil || first.Member != nil {
		t.Fatalf("an empty one holds %+v, %v", first, err)
	}
	w := scene.New(t, 3)
	if err := d.putMembership(someMembership(t), w.State.Records()); err != nil {
		t.Fatal(err)
	}
	for at, kept := range []bool{false, true} {
		asked = 0
		d.fault = func() error {
			if asked++; asked == at+1 {
				return full
			}
			return nil
		}
		r := service("web", at)
		r.Version, r.Claim = mesh.Version{Time: 1000, Writer: scene.NodeID(1)}, 1000
		if err := d.putRecords([]mesh.Record{r}); !errors.Is(err, full) {
			t.Fatalf("a full disk gives %v", err)
		}
		if _, ok := m.records[r.Key()]; ok != kept {
			t.Fatalf("failed when asked the time %d: kept is %v", at+1, ok)
		}
	}
	again, err := m.open()
	if err != nil || again.ID != first.ID || again.Member == nil || len(again.Records) != len(w.State.Records())+1 || len(again.Left) > 0 {
		t.Fatalf("%d records of %d and %d left out came back, %v", len(again.Records), len(w.State.Records())+1, len(again.Left), err)
	}
	d.fault = func() error { return nil }
	if err := d.dropMembership(); err != nil {
		t.Fatal(err)
	}
	if last, err := m.open(); err != nil || last.ID != first.ID || last.Member != nil || len(last.Records) > 0 {
		t.Fatalf("after a leave it holds %+v, %v", last, err)
	}
}
