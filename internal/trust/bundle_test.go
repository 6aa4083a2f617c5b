package trust

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestBundleRoundTrip(t *testing.T) {
	b := must[Bundle](t)(NewBundle(noon()))
	b.Gossip = append(b.Gossip, NewSecret())
	data := must[[]byte](t)(b.Marshal())
	got := must[Bundle](t)(ParseBundle(data))
	if got.Authority.Compare(b.Authority) != 0 || !got.Authority.CanIssue() || len(got.Gossip) != 2 || got.Gossip[0] != b.Gossip[0] || got.Gossip[1] != b.Gossip[1] {
		t.Errorf("read as %v from %v", got, b)
	}
	next := must[Bundle](t)(b.Next(noon()))
	if next.Authority.Generation() != 2 || len(next.Gossip) != 1 || next.Gossip[0] == b.Gossip[0] || next.Authority.Certificate() == nil {
		t.Errorf("the next is %v", next)
	}
	_, err := Bundle{Authority: b.Authority.Public(), Gossip: b.Gossip}.Marshal()
	wantReason(t, err, NotIssuer)
}

func TestParseBundleRefuses(t *testing.T) {
	good := must[[]byte](t)(must[Bundle](t)(NewBundle(noon())).Marshal())
	edit := func(field string, value any) []byte {
		var m map[string]any
		must[struct{}](t)(struct{}{}, json.Unmarshal(good, &m))
		m[field] = value
		return must[[]byte](t)(json.Marshal(m))
	}
	for name, c := range map[string]struct {
		data []byte
		want mesh.Reason
	}{
		"good":                                   {good, ""},
		"with another field":                     {edit("later", "x"), ""},
		"of a version to come":                   {edit("v", 2), NewerVersion},
		"a version to come that reads otherwise": {[]byte(`{"v":2,"gossip":"x"}`), NewerVersion},
		"of no version":                          {edit("v", 0), BadMessage},
		"of a wrong version":                     {edit("v", "1"), BadMessage},
		"without keys":                           {edit("gossip", []string{}), BadMessage},
		"with a short key":                       {edit("gossip", []string{"AAAA"}), BadMessage},
		"with many keys":                         {edit("gossip", strings.Split(strings.Repeat(strings.Repeat("A", 43)+"= ", 9)[:9*45-1], " ")), BadMessage},
		"without the CA":                         {edit("authority", ""), BadCertificate},
		"without the CA's key":                   {edit("key", ""), BadMessage},
		"another key":                            {edit("key", testKey(1).Seed()), BadCertificate},
		"large":                                  {append(bytes.Repeat([]byte(" "), bundleLimit), good...), BadMessage},
		"cut":                                    {good[:50], BadMessage},
		"nothing":                                {nil, BadMessage},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseBundle(c.data)
			wantReason(t, err, c.want)
		})
	}
}

func FuzzParseBundle(f *testing.F) {
	old, _, _ := readFormat1(f)
	f.Add([]byte(old.Bundle))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			return
		}
		again, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseBundle(again); err != nil || got.Authority.Compare(b.Authority) != 0 || len(got.Gossip) != len(b.Gossip) {
			t.Fatalf("%v became %v, %v", b, got, err)
		}
	})
}
