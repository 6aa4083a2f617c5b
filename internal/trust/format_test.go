package trust

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// What an earlier program wrote. The file does not change: if a test of it fails, it is
// the program that has forgotten how to read.
//
//go:embed testdata/format1.json
var format1JSON []byte

type format1 struct {
	Seed        []byte          `json:"seed"`
	ID          mesh.NodeID     `json:"id"`
	Secret      string          `json:"secret"` // a token of version 1
	Token       string          `json:"token"`
	TokenID     TokenID         `json:"tokenID"`
	GrantHash   []byte          `json:"grantHash"`
	Authority   []byte          `json:"authority"`
	Certificate []byte          `json:"certificate"`
	Operator    []byte          `json:"operator"`
	Bundle      json.RawMessage `json:"bundle"`
	Rotation    json.RawMessage `json:"rotation"`
	Body        []byte          `json:"body"`
	Signature   []byte          `json:"signature"`
	Sealed      []byte          `json:"sealed"`
}

// readFormat1 is also what fuzzing begins with: its processes must begin with the same.
func readFormat1(tb testing.TB) (f format1, key Key, bundle Bundle) {
	tb.Helper()
	must[struct{}](tb)(struct{}{}, json.Unmarshal(format1JSON, &f))
	return f, must[Key](tb)(ParseKey(f.Seed)), must[Bundle](tb)(ParseBundle(f.Bundle))
}

func TestFormat1IsRead(t *testing.T) {
	f, key, bundle := readFormat1(t)
	if key.ID() != f.ID {
		t.Errorf("the node was %s and is %s", f.ID, key.ID())
	}
	if s := must[Secret](t)(ParseToken(f.Secret)); s != (Secret{1, 2, 3}) {
		t.Error("another secret")
	}
	a := must[*Authority](t)(ParseAuthority(f.Authority))
	token := must[JoinToken](t)(ParseJoinToken(f.Token))
	if g := token.Grant(); token.ID != f.TokenID || token.Role != RoleOperator || token.Pin != a.Pin() || !token.Expires.Equal(noon().Add(24*time.Hour)) || !bytes.Equal(g.Hash[:], f.GrantHash) {
		t.Errorf("the token is %#v", token)
	}
	if id := must[Identity](t)(a.Identify(f.Certificate, noon())); id.Node != f.ID || id.Role != RoleNode {
		t.Errorf("the certificate is %v's", id)
	}
	if id := must[Identity](t)(a.Identify(f.Operator, noon())); id.Name != "alice" || id.Role != RoleOperator {
		t.Errorf("the certificate is %v's", id)
	}
	if bundle.Authority.Pin() != a.Pin() || len(bundle.Gossip) != 1 {
		t.Errorf("the bundle is %v", bundle)
	}
	// The rotation's JSON was indented with the file's.
	if next := must[Bundle](t)(a.OpenRotation(f.Rotation, key)); next.Authority.Generation() != 2 {
		t.Errorf("the rotation leads to %v", next)
	}
	if err := Verify(f.ID, f.Body, f.Signature); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(key.Sign(f.Body), f.Signature) {
		t.Error("another signature: Ed25519 has one for a body")
	}
	if text, err := key.Open("p", f.Sealed); err != nil || string(text) != "text" {
		t.Errorf("opened as %q, %v", text, err)
	}
}
