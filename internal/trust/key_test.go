package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func TestKey(t *testing.T) {
	k := NewKey()
	again := must[Key](t)(ParseKey(k.Seed()))
	if again.Public() != k.Public() || NewKey().Public() == k.Public() {
		t.Fatal("the seed is not the key")
	}
	public := k.Public()
	sum := sha256.Sum256(public[:])
	if want := hex.EncodeToString(sum[:8]); string(k.ID()) != want {
		t.Errorf("ID %s, want %s", k.ID(), want)
	}
	if err := k.ID().Validate(); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, 31, 33, 64} {
		_, err := ParseKey(make([]byte, n))
		wantReason(t, err, BadMessage)
	}
}

// What is signed for one purpose is nothing for another, wherever the border lies.
func TestSignatureHasOnePurpose(t *testing.T) {
	k := testKey(1)
	sig := k.signed("a", []byte("bc"))
	p := k.Public()
	if !p.verifies("a", []byte("bc"), sig) || p.verifies("ab", []byte("c"), sig) || p.verifies("", []byte("abc"), sig) {
		t.Error("the purpose is not a part of what is signed")
	}
	record := k.Sign([]byte("x"))[KeySize:]
	if p.verifies(purposeJoin, []byte("x"), record) || p.verifies(purposeToken, []byte("x"), record) {
		t.Error("a record's signature is one of a join request")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	k := testKey(0xab)
	hides(t, k, k.Seed())
	hides(t, &k, k.Seed())
	hides(t, struct{ K Key }{k}, k.Seed())
	a := testAuthority(t)
	hides(t, a, a.key.Seed())
	hides(t, []*Authority{a}, a.key.Seed())
	b := must[Bundle](t)(NewBundle(noon()))
	hides(t, b, b.Authority.key.Seed())
	hides(t, b, b.Gossip[0][:])
	token := must[JoinToken](t)(NewJoinToken(a, RoleNode, noon()))
	hides(t, token, token.secret[:])
	hides(t, &token, token.secret[:])
	if bytes.Contains([]byte(token.String()), []byte(token.Text()[len(joinTokenPrefix):])) {
		t.Error("a token prints its text")
	}
}
