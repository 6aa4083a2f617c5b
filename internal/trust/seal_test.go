package trust

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

// The public half alone gives the same X25519 key as the private one: two ways that must
// agree, or nothing that is sealed could be opened.
func TestSealingKeyFollowsFromBothHalves(t *testing.T) {
	for range 200 {
		k := NewKey()
		private, err := k.opening()
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.Public().sealing()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(private.PublicKey().Bytes(), public.Bytes()) {
			t.Fatalf("of %x", k.Seed())
		}
	}
}

func TestSeal(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := testKey(rapid.Byte().Draw(r, "key"))
		text := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(r, "text")
		sealed := must[[]byte](t)(Seal(k.Public(), "p", text))
		if len(sealed) != len(text)+sealOverhead {
			r.Fatalf("%d bytes for %d", len(sealed), len(text))
		}
		got, err := k.Open("p", sealed)
		if err != nil || !bytes.Equal(got, text) {
			r.Fatalf("opened as %x, %v", got, err)
		}
		bit := rapid.IntRange(0, len(sealed)*8-1).Draw(r, "bit")
		sealed[bit/8] ^= 1 << (bit % 8)
		// RFC 7748, 5: the top bit of an X25519 key is not looked at; HPKE binds it by hashing the key.
		if _, err := k.Open("p", sealed); mesh.ReasonOf(err) != BadSeal {
			r.Fatalf("bit %d is not sealed: %v", bit, err)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	k := testKey(1)
	sealed := must[[]byte](t)(Seal(k.Public(), "p", []byte("text")))
	for name, open := range map[string]func() ([]byte, error){
		"another node":    func() ([]byte, error) { return testKey(2).Open("p", sealed) },
		"another purpose": func() ([]byte, error) { return k.Open("pp", sealed) },
		"cut":             func() ([]byte, error) { return k.Open("p", sealed[:len(sealed)-1]) },
		"key only":        func() ([]byte, error) { return k.Open("p", sealed[:32]) },
		"nothing":         func() ([]byte, error) { return k.Open("p", nil) },
		"zero key":        func() ([]byte, error) { return k.Open("p", make([]byte, 80)) },
		"large":           func() ([]byte, error) { return k.Open("p", make([]byte, 1<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open()
			wantReason(t, err, BadSeal)
		})
	}
	_, err := Seal(k.Public(), "p", make([]byte, sealLimit+1))
	wantReason(t, err, BadSeal)
}

func nodes(n int) (keys []Key, public []PublicKey) {
	for i := range n {
		k := keyOf([KeySize]byte{byte(i), byte(i >> 8), 3})
		keys, public = append(keys, k), append(public, k.Public())
	}
	return keys, public
}

func TestEnvelope(t *testing.T) {
	for _, n := range []int{0, 1, 2, 300} {
		keys, public := nodes(n)
		text := []byte("what all of them may know")
		envelope := must[[]byte](t)(SealFor(append(public, public...), "p", text)) // twice is once
		if want := envelopeHead + 88*n + len(text) + gcmNonce + 16; len(envelope) != want {
			t.Errorf("%d bytes for %d nodes, want %d", len(envelope), n, want)
		}
		for _, k := range keys {
			if got, err := k.OpenEnvelope("p", envelope); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("opened as %q, %v", got, err)
			}
		}
		if ids := must[[]mesh.NodeID](t)(Sealed(envelope)); len(ids) != n || !slices.IsSorted(ids) {
			t.Errorf("for %d nodes, not %d", len(ids), n)
		}
		_, err := testKey(1).OpenEnvelope("p", envelope)
		wantReason(t, err, BadSeal)
	}
}

func TestEnvelopeRefuses(t *testing.T) {
	keys, public := nodes(3)
	whole := must[[]byte](t)(SealFor(public, "p", []byte("text")))
	rapid.Check(t, func(r *rapid.T) {
		bad := bytes.Clone(whole)
		bit := rapid.IntRange(0, len(bad)*8-1).Draw(r, "bit")
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := keys[0].OpenEnvelope("p", bad); err == nil {
			r.Fatalf("bit %d may be changed", bit)
		}
		if _, err := keys[0].OpenEnvelope("p", whole[:rapid.IntRange(0, len(whole)-1).Draw(r, "length")]); err == nil {
			r.Fatal("it may be cut")
		}
	})
	_, err := keys[0].OpenEnvelope("q", whole)
	wantReason(t, err, BadSeal)
	_, err = keys[0].OpenEnvelope("p", append([]byte{2}, whole[1:]...))
	wantReason(t, err, NewerVersion)
	_, err = keys[0].OpenEnvelope("p", append([]byte{0}, whole[1:]...))
	wantReason(t, err, BadMessage)
	_, err = SealFor(append(public, PublicKey{1}), "p", nil)
	wantReason(t, err, BadSeal)
	_, err = SealFor(public, "p", make([]byte, sealLimit+1))
	wantReason(t, err, BadSeal)
}

func FuzzOpen(f *testing.F) {
	old, k, _ := readFormat1(f)
	f.Add(old.Sealed)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if got, err := k.Open("p", sealed); err == nil && len(got)+sealOverhead != len(sealed) {
			t.Fatalf("%d bytes from %d", len(got), len(sealed))
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	old, key, _ := readFormat1(f)
	var w wireRotation
	must[struct{}](f)(struct{}{}, json.Unmarshal(old.Rotation, &w))
	f.Add(w.Envelope)
	f.Add([]byte{1, 255, 255})
	f.Fuzz(func(t *testing.T, envelope []byte) {
		ids, err := Sealed(envelope)
		if _, openErr := key.OpenEnvelope(purposeRotation, envelope); openErr == nil && (err != nil || len(ids) == 0) {
			t.Fatalf("opened, and is for %v, %v", ids, err)
		}
	})
}
