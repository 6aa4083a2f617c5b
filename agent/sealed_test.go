package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// stamper signs for one node, and knows the signatures of all.
type stamper struct{ id mesh.NodeID }

func (s stamper) Sign(body []byte) []byte {
	sum := sha256.Sum256(append([]byte(s.id), body...))
	return sum[:]
}

func (stamper) Admit(mesh.Record) error { return nil }

func (stamper) Verify(writer mesh.NodeID, body, sig []byte) error {
	if !bytes.Equal(sig, stamper{writer}.Sign(body)) {
		return errors.New("forged")
	}
	return nil
}

// sealedBy checks that what a node wrote has its signature, wherever it is read.
func sealedBy(t *testing.T, id mesh.NodeID, records []mesh.Record) (written int) {
	t.Helper()
	for _, r := range records {
		if r.Version.Writer != id || r.Version.Time < mesh.Micros(today()) {
			continue // of another, or of the scene
		}
		line, err := gossip.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := gossip.Decode(line, stamper{})
		if err != nil || back.Sum() != r.Sum() || back.Version != r.Version {
			t.Errorf("%s %s: %v", r.Kind, r.ID, err)
		}
		written++
	}
	return written
}

// Every write of this node is signed: a decision's, settling's, and that of a record which
// another took from it; so is what the disk has of it.
func TestWritesAreSealed(t *testing.T) {
	c, dir := member(t, scene.New(t, 2), &clock{at: today()})
	id := scene.NodeID(1)
	c.signer = stamper{id}
	web := service("web", 1)
	web.Service.Publish = []mesh.PublishedPort{scene.Port(8080, 80, mesh.TCP)}
	endpoint := mesh.EndpointRecord(&mesh.Endpoint{
		ID: testID[mesh.EndpointID]('d', 1), Name: "web.1", Service: web.Service.ID, Node: id, State: mesh.Ready, Weight: 1,
	})
	if _, err := c.update(writes(web, endpoint)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.settle(); err != nil {
		t.Fatal(err)
	}
	at := mesh.Micros(today().Add(time.Hour))
	c.Merge([]mesh.Record{written(tombstone(endpoint), scene.NodeID(2), at)})
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.state.Get(endpoint.Key()); got.Deleted || len(got.Endpoint.Attached) != 1 {
		t.Fatalf("the endpoint is %+v", got)
	}
	c.store.close()
	for _, records := range [][]mesh.Record{c.state.Records(), reopened(t, dir).Records} {
		if n := sealedBy(t, id, records); n < 3 { // the node with its block, the service, the endpoint
			t.Errorf("%d records of %d", n, len(records))
		}
	}
}

// A change by an older agent keeps what a newer one said of a service, and so does writing a
// record again that another deleted.
func TestUnknownFieldsOutliveAChange(t *testing.T) {
	c, _ := member(t, scene.New(t, 2), &clock{at: today()})
	line := `{"k":"service","i":"c000000000000001","t":5,"w":"` + string(scene.NodeID(2)) + `","c":5,"svc":{"i":"c000000000000001","n":"web","s":"rr","later":1}}`
	own := `{"k":"endpoint","i":"d000000000000001","t":5,"w":"` + string(scene.NodeID(1)) +
		`","c":5,"ep":{"i":"d000000000000001","n":"web.1","svc":"c000000000000001","node":"` + string(scene.NodeID(1)) + `","s":"ready","w":1,"later":2}}`
	var records []mesh.Record
	for _, text := range []string{line, own} {
		r, err := gossip.Decode([]byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	c.Merge(records)
	renamed := *records[0].Service
	renamed.Name = "shop"
	if _, err := c.update(writes(mesh.ServiceRecord(&renamed))); err != nil {
		t.Fatal(err)
	}
	c.Merge([]mesh.Record{written(tombstone(records[1]), scene.NodeID(2), mesh.Micros(today().Add(time.Hour)))})
	for i, field := range []string{`"later":1`, `"later":2`} {
		if got, _ := c.state.Get(records[i].Key()); got.Deleted || !bytes.Contains(got.Body, []byte(field)) || got.Version.Writer != scene.NodeID(1) {
			t.Errorf("%s is not in %s", field, got.Body)
		}
	}
}

// A tombstone that every node has had goes from the state, and with the next flush from the disk.
func TestExpiredTombstonesLeaveTheDisk(t *testing.T) {
	clock := &clock{at: today()}
	c, dir := member(t, scene.New(t, 2), clock)
	web := service("web", 1)
	for _, r := range []mesh.Record{web, tombstone(web)} {
		if _, err := c.update(writes(r)); err != nil {
			t.Fatal(err)
		}
	}
	clock.set(today().Add(mesh.Horizon + time.Hour))
	synced := func(id mesh.NodeID) mesh.Record {
		n := *c.snapshot().Node(id)
		n.Synced = mesh.Micros(clock.now())
		return mesh.NodeRecord(&n)
	}
	if _, err := c.update(writes(synced(scene.NodeID(1)))); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.state.Get(web.Key()); !ok {
		t.Fatal("one node has not said that it has the tombstone")
	}
	c.Merge([]mesh.Record{written(synced(scene.NodeID(2)), scene.NodeID(2), mesh.Micros(clock.now())+5)})
	if r, ok := c.state.Get(web.Key()); ok {
		t.Fatalf("still there: %+v", r)
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	c.store.close()
	for _, r := range reopened(t, dir).Records {
		if r.Key() == web.Key() {
			t.Errorf("on the disk: %+v", r)
		}
	}
}
