package trust

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

// What a removal leaves: the nodes that remain have the next bundle, the removed one has
// nothing, and everybody can see who did it.
func TestRotation(t *testing.T) {
	keys, public := nodes(5)
	now := must[Bundle](t)(NewBundle(noon()))
	next, rotation, err := now.Rotate(keys[0], public[:4], noon())
	if err != nil {
		t.Fatal(err)
	}
	seen := must[Rotated](t)(now.Authority.Public().ReadRotation(rotation))
	if seen.Authority.Pin() != next.Authority.Pin() || seen.Authority.CanIssue() || seen.Maker != keys[0].ID() || len(seen.Nodes) != 4 || slices.Contains(seen.Nodes, keys[4].ID()) {
		t.Errorf("it reads as %+v", seen)
	}
	for i, k := range keys {
		got, err := now.Authority.OpenRotation(rotation, k)
		if i == 4 {
			wantReason(t, err, BadSeal)
			continue
		}
		if err != nil || got.Authority.Compare(next.Authority) != 0 || got.Gossip[0] != next.Gossip[0] {
			t.Fatalf("node %d got %v, %v", i, got, err)
		}
		c := must[*Credentials](t)(NewCredentials(CredentialsConfig{Key: k, Authority: now.Authority, Now: at(0)}))
		if did, err := c.Replace(got.Authority); !did || err != nil || c.Identity().Generation != 2 {
			t.Errorf("node %d: %v, %v", i, did, err)
		}
	}
	_, err = next.Authority.OpenRotation(rotation, keys[0])
	wantReason(t, err, WrongCluster)
	_, err = testAuthority(t).OpenRotation(rotation, keys[0])
	wantReason(t, err, WrongCluster)
}

// Two nodes that remove each other at one time: whoever sees both follows the same one.
func TestRotationsAtOneTime(t *testing.T) {
	keys, public := nodes(4)
	now := must[Bundle](t)(NewBundle(noon()))
	_, left, err1 := now.Rotate(keys[0], public[:3], noon())
	_, right, err2 := now.Rotate(keys[1], public[:3], noon())
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	var ends []Pin
	for i, order := range [][][]byte{{left, right}, {right, left}, {left, right, left}} {
		c := must[*Credentials](t)(NewCredentials(CredentialsConfig{Key: keys[i], Authority: now.Authority, Now: at(0)}))
		for _, rotation := range order {
			b := must[Bundle](t)(now.Authority.OpenRotation(rotation, keys[i]))
			must[bool](t)(c.Replace(b.Authority))
		}
		ends = append(ends, c.Authority().Pin())
	}
	if ends[0] != ends[1] || ends[0] != ends[2] {
		t.Errorf("the nodes believe %v", ends)
	}
}

func TestFollowRefuses(t *testing.T) {
	a := testAuthority(t)
	b := must[*Authority](t)(a.Next(noon()))
	c := must[*Authority](t)(b.Next(noon()))
	maker := testKey(1)
	word := func(by, next *Authority) []byte { return must[[]byte](t)(by.Succeed(next, maker)) }
	edit := func(data []byte, f func(w *wireSuccession, body *successionBody)) []byte {
		var w wireSuccession
		var body successionBody
		must[struct{}](t)(struct{}{}, json.Unmarshal(data, &w))
		must[struct{}](t)(struct{}{}, json.Unmarshal(w.Body, &body))
		f(&w, &body)
		return must[[]byte](t)(json.Marshal(w))
	}
	resigned := func(f func(body *successionBody)) []byte {
		return edit(word(a, b), func(w *wireSuccession, body *successionBody) {
			f(body)
			w.Body = must[[]byte](t)(json.Marshal(body))
			w.ByCA, w.ByMaker = a.key.signed(purposeSuccession, w.Body), maker.signed(purposeSuccession, w.Body)
		})
	}
	for name, k := range map[string]struct {
		data []byte
		want mesh.Reason
	}{
		"good":               {word(a, b), ""},
		"of the next":        {word(b, c), WrongCluster},
		"of another cluster": {word(testAuthority(t), b), WrongCluster},
		"one left out":       {word(a, c), BadCertificate},
		"itself":             {word(a, a), BadCertificate},
		"not by the CA":      {edit(word(a, b), func(w *wireSuccession, _ *successionBody) { w.ByCA = maker.signed(purposeSuccession, w.Body) }), BadSignature},
		"not by its maker":   {edit(word(a, b), func(w *wireSuccession, _ *successionBody) { w.ByMaker = testKey(2).signed(purposeSuccession, w.Body) }), BadSignature},
		"unsigned":           {edit(word(a, b), func(w *wireSuccession, _ *successionBody) { w.ByMaker, w.ByCA = nil, nil }), BadSignature},
		"in another's name": {edit(word(a, b), func(w *wireSuccession, body *successionBody) {
			k := testKey(2).Public()
			body.Maker = k[:]
			w.Body, _ = json.Marshal(body)
		}), BadSignature},
		"a short key":           {resigned(func(b *successionBody) { b.Maker = b.Maker[1:] }), BadMessage},
		"no CA":                 {resigned(func(b *successionBody) { b.Authority = nil }), BadCertificate},
		"a version to come":     {edit(word(a, b), func(w *wireSuccession, _ *successionBody) { w.Version = 2 }), NewerVersion},
		"a body of one to come": {resigned(func(b *successionBody) { b.Version = 2 }), NewerVersion},
		"large":                 {make([]byte, successionLimit+1), BadMessage},
		"nothing":               {nil, BadMessage},
	} {
		t.Run(name, func(t *testing.T) {
			next, by, err := a.Public().Follow(k.data)
			wantReason(t, err, k.want)
			if err == nil && (next.Pin() != b.Pin() || by != maker.ID()) {
				t.Errorf("leads to %v by %s", next, by)
			}
		})
	}
	_, err := a.Public().Succeed(b, maker)
	wantReason(t, err, NotIssuer)
}

// What was sealed must be what was said, or a maker could have two CAs out of one.
func TestRotationIsOneCA(t *testing.T) {
	keys, public := nodes(2)
	now := must[Bundle](t)(NewBundle(noon()))
	said, _, err := now.Rotate(keys[0], public, noon())
	if err != nil {
		t.Fatal(err)
	}
	other := must[Bundle](t)(now.Next(noon()))
	rotation := must[[]byte](t)(json.Marshal(wireRotation{
		Version:    1,
		Succession: must[[]byte](t)(now.Authority.Succeed(said.Authority, keys[0])),
		Envelope:   must[[]byte](t)(SealFor(public, purposeRotation, must[[]byte](t)(other.Marshal()))),
	}))
	_, err = now.Authority.OpenRotation(rotation, keys[1])
	wantReason(t, err, BadCertificate)
}

func TestRotationIsAllSigned(t *testing.T) {
	keys, public := nodes(2)
	now := must[Bundle](t)(NewBundle(noon()))
	_, rotation, err := now.Rotate(keys[0], public, noon())
	if err != nil {
		t.Fatal(err)
	}
	var w wireRotation
	must[struct{}](t)(struct{}{}, json.Unmarshal(rotation, &w))
	rapid.Check(t, func(r *rapid.T) {
		bad := w
		part := &bad.Succession
		if rapid.Bool().Draw(r, "envelope") {
			part = &bad.Envelope
		}
		*part = slices.Clone(*part)
		bit := rapid.IntRange(0, len(*part)*8-1).Draw(r, "bit")
		(*part)[bit/8] ^= 1 << (bit % 8)
		data, err := json.Marshal(bad)
		if err != nil {
			r.Fatal(err)
		}
		// A letter of another case in JSON, or spare bits of base64, change nothing that is read.
		b, err := now.Authority.OpenRotation(data, keys[1])
		if err == nil && part == &bad.Envelope {
			r.Fatalf("bit %d of the envelope may be changed", bit)
		}
		if err == nil && b.Authority.Generation() != 2 {
			r.Fatalf("bit %d leads to %v", bit, b.Authority)
		}
	})
}

func FuzzFollow(f *testing.F) {
	old, _, bundle := readFormat1(f)
	a := bundle.Authority
	var w wireRotation
	must[struct{}](f)(struct{}{}, json.Unmarshal(old.Rotation, &w))
	b := must[Rotated](f)(a.ReadRotation(old.Rotation)).Authority
	f.Add(w.Succession)
	f.Add([]byte(`{"v":1,"body":"e30="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if next, maker, err := a.Follow(data); err == nil && (next.Pin() != b.Pin() || maker != testKey(1).ID()) {
			t.Fatalf("leads to %v by %s", next, maker)
		}
	})
}

func FuzzRotation(f *testing.F) {
	old, key, now := readFormat1(f)
	f.Add([]byte(old.Rotation))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, readErr := now.Authority.ReadRotation(data)
		if _, err := now.Authority.OpenRotation(data, key); err == nil && readErr != nil {
			t.Fatalf("opened what cannot be read: %v", readErr)
		}
	})
}
