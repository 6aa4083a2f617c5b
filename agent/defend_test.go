package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// Another node can take away neither this node nor its endpoints: it writes them again, before
// anybody sees a state without them, and tells the others.
func TestOwnRecordsAreDefended(t *testing.T) {
	w := scene.New(t, 2)
	e := w.Endpoint(w.Service("web", nil, scene.Port(8080, 80, mesh.TCP)), "web.1", 1)
	gone := w.Endpoint(w.State.Snapshot().ServiceNamed("web").ID, "web.2", 1)
	w.Write(scene.NodeID(1), tombstone(mesh.EndpointRecord(gone)))
	other := w.Endpoint(w.State.Snapshot().ServiceNamed("web").ID, "web.3", 2)
	c, dir := member(t, w, &clock{at: time.Unix(1000, 0)})
	before := c.snapshot()

	theft := *before.EndpointNamed("web.1")
	theft.Node = scene.NodeID(2)
	at := uint64(2000e6)
	fresh := c.Merge([]mesh.Record{
		written(tombstone(mesh.NodeRecord(&mesh.Node{ID: scene.NodeID(1)})), scene.NodeID(2), at),
		written(tombstone(mesh.EndpointRecord(e)), scene.NodeID(2), at),
		written(mesh.EndpointRecord(&theft), scene.NodeID(2), at+1),
		written(tombstone(mesh.EndpointRecord(other)), scene.NodeID(2), at),
	})
	for _, key := range []mesh.Key{{Kind: mesh.KindNode, ID: string(scene.NodeID(1))}, mesh.EndpointRecord(e).Key()} {
		i := slices.IndexFunc(fresh, func(r mesh.Record) bool { return r.Key() == key })
		if i < 0 || fresh[i].Deleted || fresh[i].Version.Writer != scene.NodeID(1) || fresh[i].Version.Time <= at+1 {
			t.Errorf("%v is not defended: %+v", key, fresh)
		}
	}
	if len(fresh) != 3 { // node, web.1, and the tombstone of web.3
		t.Errorf("fresh are %+v", fresh)
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	c.store.close()
	for _, snap := range []*mesh.Snapshot{c.snapshot(), merged(reopened(t, dir).Records)} {
		n, kept := snap.Node(scene.NodeID(1)), snap.EndpointNamed("web.1")
		if n == nil || n.Slot != before.Node(scene.NodeID(1)).Slot || !slices.Equal(n.Blocks, before.Node(scene.NodeID(1)).Blocks) {
			t.Errorf("the node is %+v", n)
		}
		if kept == nil || kept.Node != scene.NodeID(1) || !slices.Equal(kept.Attached, before.EndpointNamed("web.1").Attached) {
			t.Errorf("the endpoint is %+v", kept)
		}
		if snap.EndpointNamed("web.2") != nil || snap.EndpointNamed("web.3") != nil {
			t.Error("what this node deleted, or another, came back")
		}
	}
}
