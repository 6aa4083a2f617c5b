package trust

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestRecordSignature(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := testKey(rapid.Byte().Draw(r, "key"))
		body := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(r, "body")
		sig := k.Sign(body)
		if len(sig) != SignatureSize {
			r.Fatalf("%d bytes", len(sig))
		}
		if err := Verify(k.ID(), body, sig); err != nil {
			r.Fatal(err)
		}
		// One bit anywhere, in the body, the key or the signature.
		whole := append(append([]byte{}, body...), sig...)
		bit := rapid.IntRange(0, len(whole)*8-1).Draw(r, "bit")
		whole[bit/8] ^= 1 << (bit % 8)
		if err := Verify(k.ID(), whole[:len(body)], whole[len(body):]); mesh.ReasonOf(err) != BadSignature {
			r.Fatalf("bit %d of %d is not signed: %v", bit, len(whole)*8, err)
		}
	})
}

func TestVerifyRefuses(t *testing.T) {
	a, b := testKey(1), testKey(2)
	body := []byte(`{"v":1}`)
	for name, c := range map[string]struct {
		writer mesh.NodeID
		sig    []byte
	}{
		"another's":         {a.ID(), b.Sign(body)},
		"unsigned":          {a.ID(), nil},
		"cut":               {a.ID(), a.Sign(body)[:SignatureSize-1]},
		"longer":            {a.ID(), append(a.Sign(body), 0)},
		"for another":       {b.ID(), a.Sign(body)},
		"for nobody":        {"", a.Sign(body)},
		"another's, my key": {a.ID(), append(a.Sign(body)[:KeySize:KeySize], b.Sign(body)[KeySize:]...)},
		"a join signature":  {a.ID(), append(a.Sign(body)[:KeySize:KeySize], a.signed(purposeJoin, body)...)},
		"for rules":         {"a\n} ; flush", a.Sign(body)},
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, Verify(c.writer, body, c.sig), BadSignature) })
	}
}

func TestVerifierAsksForMembership(t *testing.T) {
	a, b := testKey(1), testKey(2)
	removed := errors.New("removed")
	var asked []mesh.NodeID
	v := Verifier{Admitted: func(id mesh.NodeID) error {
		asked = append(asked, id)
		if id == b.ID() {
			return removed
		}
		return nil
	}}
	body := []byte("x")
	if err := v.Verify(a.ID(), body, a.Sign(body)); err != nil {
		t.Error(err)
	}
	if err := v.Verify(b.ID(), body, b.Sign(body)); !errors.Is(err, removed) {
		t.Errorf("a removed node's record: %v", err)
	}
	wantReason(t, v.Verify(a.ID(), body, b.Sign(body)), BadSignature)
	if len(asked) != 2 {
		t.Errorf("asked for %v: a forged record must not reach the members' list", asked)
	}
	if err := (Verifier{}).Verify(b.ID(), body, b.Sign(body)); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	k := testKey(1)
	f.Add(string(k.ID()), []byte("body"), k.Sign([]byte("body")))
	f.Add("", []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, writer string, body, sig []byte) {
		if Verify(mesh.NodeID(writer), body, sig) != nil {
			return
		}
		if got := PublicKey(sig[:KeySize]).ID(); got != mesh.NodeID(writer) {
			t.Fatalf("node %s speaks as %q", got, writer)
		}
	})
}
