package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// A node of generation 2 is not led to one that was made from generation 1 by who has no part in
// the second: neither by its word nor by its records.
func TestOldKeysMakeNoFork(t *testing.T) {
	for name, left := range map[string]bool{"guest of the removed node": false, "node that left": true} {
		t.Run(name, func(t *testing.T) {
			first := must(trust.NewBundle(time.Now()))
			a, b, out, f := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
			second, r2 := a.rotates(first, b)
			evil2, e2 := f.rotates(first, b)
			evil3, e3 := f.rotates(evil2, b)
			served := make(chan struct{}, 8)
			c := b.cluster(t, second, leading(f, evil3, served, first.Authority.Pin(), succession(first, e2), succession(evil2, e3)),
				a.self(), a.writes(mesh.RemovalRecord(&mesh.Removal{Node: out.ID(), Name: "n3"})), r2)
			c.member.lineage = []*trust.Authority{first.Authority.Public()}
			record := f.self()
			c.Merge([]mesh.Record{record})
			if left {
				c.Merge([]mesh.Record{f.writes(tombstone(record))})
			}
			came, err := c.comeBack(t.Context(), netip.MustParseAddrPort("192.0.2.19:7956"))
			<-served
			if came || mesh.ReasonOf(err) != NodeRemoved {
				t.Errorf("came back: %v, %v", came, err)
			}
			c.Merge([]mesh.Record{e2, e3})
			_, snap := c.membership()
			if next := c.newer(c.member, snap, c.steps.of(snap)); len(next) != 0 {
				t.Errorf("by the records generation %d is next", next[0].Authority.Generation())
			}
		})
	}
}

// leading is a network where a node answers all dials as a member of a generation, and leads to it.
func leading(k keyed, in trust.Bundle, served chan<- struct{}, from trust.Pin, successions ...[]byte) pipes {
	creds := must(trust.NewCredentials(trust.CredentialsConfig{Key: k.Key, Authority: in.Authority, Now: time.Now}))
	door := &trust.Door{
		Bundle: func() trust.Bundle { return in }, Now: time.Now, Grant: func(trust.TokenID) (trust.Grant, bool) { return trust.Grant{}, false },
		Return: func(mesh.NodeID, []trust.Pin) (trust.Pin, [][]byte, error) { return from, successions, nil },
	}
	return func(conn net.Conn) {
		_, _ = door.Serve(context.Background(), tls.Server(conn, creds.Server(trust.ProtocolReturn))) // the client's error is what is looked at
		conn.Close()
		served <- struct{}{}
	}
}

// Two halves that removed different nodes agree on the greater keys: the maker of each has part
// in those of the other. The lesser ones' are led back, and the greater ones' stay.
func TestHalvesFollowEachOther(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	left, l2 := a.rotates(first, b)
	right, r2 := b.rotates(first, a)
	if left.Authority.Compare(right.Authority) < 0 {
		a, b, left, right, l2, r2 = b, a, right, left, r2, l2
	}
	served := make(chan struct{}, 8)
	c := b.cluster(t, right, leading(a, left, served, first.Authority.Pin(), succession(first, l2)), a.self(), r2)
	c.member.lineage = []*trust.Authority{first.Authority.Public()}
	c.phase = inside
	_, snap := c.membership()
	counts := c.makers(c.member, snap)
	if !counts(a.ID()) || counts("00000000000000aa") {
		t.Error("the other half's maker does not count, or a stranger does")
	}
	c.Merge([]mesh.Record{l2})
	_, snap = c.membership()
	if next := c.newer(c.member, snap, c.steps.of(snap)); len(next) != 1 || next[0].Authority.Pin() != left.Authority.Pin() {
		t.Errorf("%d generations are next, want that of the other half", len(next))
	}
}

// greater makes rotations by f until one comes after all others of the same generation.
func (k keyed) greater(than *trust.Authority, from trust.Bundle, to ...keyed) *mesh.Rotation {
	for {
		next, r := k.rotates(from, to...)
		if next.Authority.Compare(than) > 0 {
			return r.Rotation
		}
	}
}

// removing is a cluster of a and b in generation 1 where a has removed n3 a moment ago, and the
// step that it made.
func removing(t *testing.T, first trust.Bundle, a, b, out keyed) (*cluster, *step) {
	t.Helper()
	c := a.cluster(t, first, gossip.Host(), b.self(), out.self())
	if err := c.resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.removeNode("n3"); err != nil {
		t.Fatal(err)
	}
	_, snap := c.membership()
	return c, c.steps.of(snap)[0]
}

// Who came in beside a removal does not make the keys that follow it.
func TestLateComersMakeNoKeys(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, out, f := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
	c, honest := removing(t, first, a, b, out)
	evil := f.greater(honest.Authority, first, a, b)
	c.Merge([]mesh.Record{f.self(), f.writes(mesh.RotationRecord(mesh.NewRotation(f.ID(), evil.From, evil.Data, []mesh.NodeID{out.ID()})))})
	r := &rotations{cluster: c, since: time.Now().Add(-time.Minute)}
	if err := r.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c.member.bundle.Authority.Pin() != honest.Authority.Pin() {
		t.Errorf("it goes on by %s", c.member.bundle.Authority)
	}
}

// Who came in beside a removal is named in status and no backend, until it has a certificate by
// the keys of now; a node that is sealed to is one, whatever certificate it shows.
func TestGuestsAreNoBackends(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, out, f := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
	second, r2 := a.rotates(first, b)
	c := a.cluster(t, second, nil, b.self(), out.self(), f.self(), r2)
	if got := c.guests(c.snapshot()); len(got) != 0 {
		t.Errorf("without a removal: %v", got)
	}
	c.Merge([]mesh.Record{a.writes(mesh.RemovalRecord(&mesh.Removal{Node: out.ID(), Name: "n3"}))})
	if got := c.guestProblems(c.snapshot()); len(got) != 1 || got[0].object != "node n4" || got[0].reason != string(NoKeys) {
		t.Errorf("beside the removal: %v", got)
	}
	gone := map[mesh.NodeID]bool{b.ID(): true}
	if got := c.withGuests(gone, c.snapshot()); len(got) != 2 || !got[f.ID()] || !got[b.ID()] || len(gone) != 1 {
		t.Errorf("no backends are on %v", got)
	}
	f.node.Cert = must(second.Authority.Issue(trust.RoleNode, "", f.Public(), time.Now()))
	c.Merge([]mesh.Record{f.self()})
	if got := c.withGuests(gone, c.snapshot()); len(got) != 1 || len(c.guestProblems(c.snapshot())) != 0 {
		t.Errorf("with a certificate by the keys of now: %v", got)
	}
}

// A rotation that cannot be opened keeps nobody from the next best.
func TestDamagedRotationIsPassedOver(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, out := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority)
	c, honest := removing(t, first, a, b, out)
	bad := b.greater(honest.Authority, first, a)
	data := slices.Clone(bad.Data)
	i := len(data) - 8 // in the text of the envelope
	if data[i] != 'A' {
		data[i] = 'A'
	} else {
		data[i] = 'B'
	}
	c.Merge([]mesh.Record{b.writes(mesh.RotationRecord(mesh.NewRotation(b.ID(), bad.From, data, nil)))})
	r := &rotations{cluster: c, since: time.Now().Add(-time.Minute)}
	if err := r.follow(t.Context()); err == nil {
		t.Error("the damaged one is opened")
	}
	if err := r.follow(t.Context()); err != nil || c.member.bundle.Authority.Pin() != honest.Authority.Pin() {
		t.Errorf("the next best: %v, by %s", err, c.member.bundle.Authority)
	}
}

// Nobody but its maker says for whom a rotation is and whom it covers, and no other way to the
// same CA takes the place of that by which a node was led there.
func TestRotationIsItsMakersWord(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, out, f := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
	second, r2 := a.rotates(first, b)
	made := mesh.NewRotation(a.ID(), r2.Rotation.From, r2.Rotation.Data, []mesh.NodeID{out.ID()})
	c := b.cluster(t, second, nil, a.self(), a.writes(mesh.RemovalRecord(&mesh.Removal{Node: out.ID(), Name: "n3"})), a.writes(mesh.RotationRecord(made)))
	c.member.trail = must(trust.Trail{}.Extend(first.Authority, succession(first, r2)))
	bad := *made
	bad.From = []byte("x")
	if r := f.writes(mesh.RotationRecord(&bad)); r.Validate() == nil {
		t.Error("another node may change it")
	}
	_, other := f.rotates(first)
	var forged []mesh.Record
	for range 16 { // before and after the true one, by their IDs
		for _, s := range [][]byte{succession(first, r2), must(first.Authority.Succeed(second.Authority.Public(), f.Key))} {
			data := spliced(s, other.Rotation.Data)
			forged = append(forged, f.writes(mesh.RotationRecord(mesh.NewRotation(f.ID(), made.From, data, []mesh.NodeID{trust.NewKey().ID()}))))
		}
	}
	if fresh := c.Merge(forged); len(fresh) != len(forged) {
		t.Fatalf("%d of %d are taken", len(fresh), len(forged))
	}
	m, snap := c.membership()
	all := c.steps.of(snap)
	if got := m.rotation(snap, all); got != made {
		t.Errorf("the present keys came by %+v", got)
	}
	if m.present(all).sealedTo(f.ID()) || !m.present(all).sealedTo(a.ID()) {
		t.Error("they are for others than they were made for")
	}
	if _, _, err := c.successions(a.ID(), []trust.Pin{first.Authority.Pin()}); err != nil {
		t.Errorf("who was away is not led back: %v", err)
	}
}

// spliced is a rotation with another succession.
func spliced(succession, rotation []byte) []byte {
	var w map[string]any
	if err := json.Unmarshal(rotation, &w); err != nil {
		panic(err)
	}
	w["succession"] = succession
	return must(json.Marshal(w))
}

// What a turn takes after many removals, on a node that joined after them.
func BenchmarkNewerAfter200Removals(b *testing.B) {
	bundle := must(trust.NewBundle(time.Now()))
	k := newKeyed(1, bundle.Authority)
	var records []mesh.Record
	for range 200 {
		next, r := k.rotates(bundle)
		records, bundle = append(records, r), next
	}
	c := k.cluster(b, bundle, nil, records...)
	_, snap := c.membership()
	all := c.steps.of(snap)
	if got := len(c.member.generations(c.member.ways(all), c.makers(c.member, snap))); got != 201 {
		b.Fatalf("%d generations", got)
	}
	for b.Loop() {
		c.newer(c.member, snap, all)
	}
}
