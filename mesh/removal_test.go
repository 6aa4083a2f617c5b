package mesh

import (
	"net/netip"
	"testing"
	"time"
)

// A node that was removed is none, whatever its record says and whenever it comes; nor does
// it keep tombstones from being dropped.
func TestRemoval(t *testing.T) {
	id := func(n byte) NodeID { return NodeID("a00000000000000" + string('0'+n)) }
	node := func(n byte, at, synced uint64) Record {
		r := NodeRecord(&Node{ID: id(n), Name: "n", Addr: netip.AddrFrom4([4]byte{192, 0, 2, n}), VXLANPort: 4789, MTU: 1500, Synced: synced})
		r.Version, r.Claim = Version{at, id(n)}, 1
		return r
	}
	late := uint64(100 * 24 * time.Hour / time.Microsecond)
	gone := Record{Kind: KindService, ID: "c000000000000001", Deleted: true, Version: Version{2, id(1)}, Claim: 1}
	removal := RemovalRecord(&Removal{Node: id(2), Name: "n"})
	removal.Version, removal.Claim = Version{3, id(1)}, 3
	endpoint := EndpointRecord(&Endpoint{ID: "d000000000000001", Name: "e", Service: "c000000000000002", Node: id(2), State: Ready, Weight: 1})
	endpoint.Version, endpoint.Claim = Version{9, id(2)}, 9
	for name, order := range map[string][]Record{
		"removed last":  {node(1, late, late), gone, node(2, 9, 0), endpoint, removal},
		"removed first": {removal, gone, node(1, late, late), endpoint, node(2, 9, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			for _, r := range order {
				if err := r.Validate(); err != nil {
					t.Fatal(err)
				}
				s.Merge(r)
			}
			snap := s.Snapshot()
			if len(snap.Nodes) != 1 || len(snap.Endpoints) != 0 || !snap.Removed(id(2)) || snap.Removed(id(1)) {
				t.Errorf("the view has nodes %v and endpoints %v", snap.Nodes, snap.Endpoints)
			}
			if dropped := s.Expire(); len(dropped) != 1 || dropped[0] != gone.Key() {
				t.Errorf("dropped %v, want the service's tombstone", dropped)
			}
		})
	}
}

// A removal or a rotation stays: neither can be deleted, nor be of nobody.
func TestRemovalIsForGood(t *testing.T) {
	version := Version{3, "a000000000000001"}
	good := NewRotation(version.Writer, []byte{1}, []byte{2}, []NodeID{"a000000000000002"})
	if err := (Record{Kind: KindRotation, ID: good.ID, Rotation: good, Version: version, Claim: 3}).Validate(); err != nil {
		t.Fatal(err)
	}
	edited := func(edit func(*Rotation)) Record {
		bad := *good
		edit(&bad)
		return RotationRecord(&bad)
	}
	for name, r := range map[string]Record{
		"tombstone of a removal":  {Kind: KindRemoval, ID: "a000000000000002", Deleted: true},
		"tombstone of a rotation": {Kind: KindRotation, ID: "a000000000000002", Deleted: true},
		"removal without a name":  RemovalRecord(&Removal{Node: "a000000000000002"}),
		"removal of no node":      RemovalRecord(&Removal{Node: "x", Name: "n"}),
		"empty rotation":          RotationRecord(&Rotation{ID: "a000000000000002"}),
		"rotation out of order":   RotationRecord(NewRotation(version.Writer, nil, []byte{1}, []NodeID{"a000000000000002", "a000000000000001"})),
		"rotation by another":     RotationRecord(NewRotation("a000000000000002", []byte{1}, []byte{2}, nil)),
		"another CA before":       edited(func(r *Rotation) { r.From = []byte{3} }),
		"other data":              edited(func(r *Rotation) { r.Data = []byte{3} }),
		"other removed nodes":     edited(func(r *Rotation) { r.Covers = nil }),
		"another maker":           edited(func(r *Rotation) { r.Maker = "a000000000000002" }),
	} {
		r.Version, r.Claim = version, 3
		if err := r.Validate(); ReasonOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
