package trust

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

// rotated is a cluster whose node 1 has removed somebody as often as said, and what it
// keeps of that.
type rotated struct {
	*testCluster
	first       Bundle
	successions [][]byte
}

func newRotated(tb testing.TB, times int) *rotated {
	tb.Helper()
	r := &rotated{testCluster: newTestCluster(tb)}
	r.first = r.bundle
	for range times {
		next, rotation, err := r.bundle.Rotate(testKey(1), []PublicKey{testKey(1).Public()}, noon())
		if err != nil {
			tb.Fatal(err)
		}
		seen := must[Rotated](tb)(r.bundle.Authority.ReadRotation(rotation))
		r.successions, r.bundle = append(r.successions, seen.Succession), next
		must[bool](tb)(r.node.Replace(next.Authority))
	}
	r.door.Return = func(id mesh.NodeID, known []Pin) (Pin, [][]byte, error) {
		from := r.first.Authority.Pin()
		if id != testKey(7).ID() {
			return from, nil, mesh.Refuse(mesh.NotFound, "join", "no such node")
		}
		if !slices.Contains(known, from) {
			return from, nil, mesh.Refuse(TokenOutdated, "join", "not known any more")
		}
		return from, r.successions, nil
	}
	return r
}

func believeAll(mesh.NodeID) error { return nil }

func (r *rotated) comeBack(tb testing.TB, who Returning) (Bundle, served, error) {
	tb.Helper()
	client, server := loopback(tb)
	done := r.open(tb.Context(), server)
	got, err := Return(tb.Context(), client, who)
	client.Close()
	return got.Bundle, <-done, err
}

func TestReturn(t *testing.T) {
	for _, times := range []int{0, 1, 5, 100} {
		r := newRotated(t, times)
		b, s, err := r.comeBack(t, Returning{Key: testKey(7), Known: []*Authority{r.first.Authority.Public()}, Now: at(0), Believed: believeAll})
		if err != nil || s.err != nil {
			t.Fatal(times, err, s.err)
		}
		if b.Authority.Compare(r.bundle.Authority) != 0 || b.Gossip[0] != r.bundle.Gossip[0] || s.id.Node != testKey(7).ID() {
			t.Errorf("got %v, as %v", b, s.id)
		}
		// The node is a member again.
		me := must[*Credentials](t)(NewCredentials(CredentialsConfig{Key: testKey(7), Authority: b.Authority, Now: at(0)}))
		_, clientErr, serverErr := meet(t, me.Client(ProtocolSync, testKey(1).ID()), r.node.Server(ProtocolSync))
		wantReason(t, errors.Join(clientErr, serverErr), "")
	}
}

func TestReturnRefusals(t *testing.T) {
	distrust := mesh.Refuse(mesh.NotFound, "join", "no such maker")
	for name, c := range map[string]struct {
		prepare func(*testing.T, *rotated, *Returning)
		client  mesh.Reason
		door    mesh.Reason
	}{
		"as is":          {func(*testing.T, *rotated, *Returning) {}, "", ""},
		"a removed node": {func(_ *testing.T, _ *rotated, r *Returning) { r.Key = testKey(8) }, mesh.NotFound, mesh.NotFound},
		"too long ago":   {func(t *testing.T, _ *rotated, r *Returning) { t.Helper(); r.Known = []*Authority{testAuthority(t)} }, TokenOutdated, TokenOutdated},
		"nobody returns": {func(_ *testing.T, c *rotated, _ *Returning) { c.door.Return = nil }, NoProtocol, NoProtocol},
		"not so long ago": {func(t *testing.T, c *rotated, r *Returning) {
			t.Helper()
			r.Known, c.first = []*Authority{c.bundle.Authority}, c.bundle
		}, WrongCluster, ""},
		"by who is unknown": {func(_ *testing.T, _ *rotated, r *Returning) { r.Believed = func(mesh.NodeID) error { return distrust } }, mesh.NotFound, ""},
		"one left out":      {func(_ *testing.T, c *rotated, _ *Returning) { c.successions = c.successions[1:] }, WrongCluster, ""},
		"one too few":       {func(_ *testing.T, c *rotated, _ *Returning) { c.successions = c.successions[:1] }, WrongCluster, ""},
		"another's bundle": {func(t *testing.T, c *rotated, _ *Returning) {
			t.Helper()
			c.bundle = must[Bundle](t)(c.bundle.Next(noon()))
		}, BadCertificate, ""},
		// The removed node has the CA's key of before, and nothing that follows from it here.
		"an impostor": {func(t *testing.T, c *rotated, _ *Returning) {
			t.Helper()
			c.bundle = must[Bundle](t)(NewBundle(noon()))
			c.node = member(t, c.bundle.Authority, 9)
		}, WrongCluster, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRotated(t, 2)
			who := Returning{Key: testKey(7), Known: []*Authority{r.first.Authority.Public()}, Now: at(0), Believed: believeAll}
			c.prepare(t, r, &who)
			_, s, err := r.comeBack(t, who)
			wantReason(t, err, c.client)
			wantReason(t, s.err, c.door)
		})
	}
}

func TestReturnIsBoundToItsConnection(t *testing.T) {
	r := newRotated(t, 1)
	key, pin := testKey(7).Public(), r.first.Authority.Pin()
	request := must[[]byte](t)(json.Marshal(wireReturn{Version: 1, Key: key[:], Pin: pin[:]}))
	other := bytes.Repeat([]byte{1}, exporterSize) // what another connection exported
	for name, proof := range map[string][]byte{
		"of another connection": testKey(7).signed(purposeReturn, append(other, request...)),
		"for joining":           testKey(7).signed(purposeJoin, append(other, request...)),
		"of zeros":              make([]byte, 64),
		"none":                  nil,
		"too long":              make([]byte, 65),
	} {
		t.Run(name, func(t *testing.T) {
			client, server := loopback(t)
			done := r.open(t.Context(), server)
			session := tls.Client(client, r.node.Client(ProtocolReturn, ""))
			must[struct{}](t)(struct{}{}, errors.Join(writeMessage(session, request), writeMessage(session, proof)))
			data := must[[]byte](t)(readMessage(session, returnAnswerLimit))
			if a, err := parseReturned(data); err != nil || a.Refusal == nil || a.Bundle != nil {
				t.Errorf("answered %+v, %v", a, err)
			}
			if err := (<-done).err; mesh.ReasonOf(err) != BadSignature && mesh.ReasonOf(err) != BadMessage {
				t.Errorf("the door said %v", err)
			}
		})
	}
}

func FuzzReturn(f *testing.F) {
	_, k, bundle := readFormat1(f)
	key, pin := k.Public(), bundle.Authority.Pin()
	f.Add(must[[]byte](f)(json.Marshal(wireReturn{Version: 1, Key: key[:], Pin: pin[:]})))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseReturn(data); err == nil && (len(r.Key) != KeySize || len(r.Pin) != PinSize) {
			t.Fatalf("accepted %+v", r)
		}
	})
}

func FuzzReturned(f *testing.F) {
	old, key, now := readFormat1(f)
	var rotation wireRotation
	must[struct{}](f)(struct{}{}, json.Unmarshal(old.Rotation, &rotation))
	next := must[Bundle](f)(now.Authority.OpenRotation(old.Rotation, key))
	w := must[wireBundle](f)(next.wire())
	who := Returning{Key: key, Known: []*Authority{now.Authority.Public()}, Now: at(0), Believed: believeAll}
	f.Add(must[[]byte](f)(json.Marshal(wireReturned{Version: 1, Successions: [][]byte{rotation.Succession}, Bundle: &w})))
	f.Add([]byte(`{"v":1,"bundle":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseReturned(data)
		if err != nil || a.Refusal != nil {
			return
		}
		if b, err := who.judge(a, now.Authority.Public(), next.Authority.Public()); err == nil && b.Authority.Pin() != next.Authority.Pin() {
			t.Fatalf("believes %v", b)
		}
	})
}
