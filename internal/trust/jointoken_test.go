package trust

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

func testToken(tb testing.TB, a *Authority, role Role) JoinToken {
	tb.Helper()
	return must[JoinToken](tb)(NewJoinToken(a, role, noon().Add(24*time.Hour)))
}

func TestJoinTokenRoundTrip(t *testing.T) {
	a := testAuthority(t)
	for _, role := range roles() {
		token := testToken(t, a, role)
		got := must[JoinToken](t)(ParseJoinToken("  " + token.Text() + "\n"))
		if got != token {
			t.Errorf("got %#v, want %#v", got, token)
		}
		if len(token.Text()) > 125 {
			t.Errorf("%d characters are much to copy", len(token.Text()))
		}
	}
	_, err := NewJoinToken(a, "root", noon())
	wantReason(t, err, WrongRole)
	if x, y := testToken(t, a, RoleNode), testToken(t, a, RoleNode); x.ID == y.ID || x.secret == y.secret {
		t.Error("two tokens are alike")
	}
}

// retold is a token's text with other bytes, whose checksum is right.
func retold(text string, edit func([]byte) []byte) string {
	raw, _ := encoding().DecodeString(strings.TrimPrefix(text, joinTokenPrefix))
	raw = edit(raw[:len(raw)-checksumSize])
	return joinTokenPrefix + encoding().EncodeToString(append(raw, joinChecksum(raw)...))
}

func TestParseJoinTokenRefuses(t *testing.T) {
	token := testToken(t, testAuthority(t), RoleNode)
	good := token.Text()
	body := strings.TrimPrefix(good, joinTokenPrefix)
	for name, c := range map[string]struct {
		text string
		want mesh.Reason
	}{
		"good":                   {good, ""},
		"empty":                  {"", TokenDamaged},
		"of version 1":           {Secret{1}.Token(), TokenDamaged},
		"of version 3":           {"sluice-3-" + body, NewerVersion},
		"of version 12":          {"sluice-12-" + body, NewerVersion},
		"of version x":           {"sluice-x-" + body, TokenDamaged},
		"of no version":          {"sluice--" + body, TokenDamaged},
		"of a version of length": {"sluice-" + strings.Repeat("9", 500) + "-", TokenDamaged},
		"not ours":               {"SWMTKN-1-" + body, TokenDamaged},
		"prefix only":            {joinTokenPrefix, TokenDamaged},
		"cut":                    {good[:len(good)-1], TokenDamaged},
		"longer":                 {good + "a", TokenDamaged},
		"in capitals":            {joinTokenPrefix + strings.ToUpper(body), TokenDamaged},
		"in two lines":           {good[:40] + "\n" + good[40:], TokenDamaged},
		"large":                  {joinTokenPrefix + strings.Repeat("a", 1<<20), TokenDamaged},
		"with a field to come":   {retold(good, func(b []byte) []byte { return append(b, 1, 2, 3) }), ""},
		"with too many":          {retold(good, func(b []byte) []byte { return append(b, make([]byte, joinTokenLimit)...) }), TokenDamaged},
		"without its pin":        {retold(good, func(b []byte) []byte { return b[:len(b)-PinSize] }), TokenDamaged},
		"of a role to come":      {retold(good, func(b []byte) []byte { b[0] = 3; return b }), NewerVersion},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseJoinToken(c.text)
			wantReason(t, err, c.want)
			if err != nil && len(body) > 0 && strings.Contains(err.Error(), body[:20]) {
				t.Errorf("the error shows the token: %v", err)
			}
			if err == nil && got != token {
				t.Errorf("read as %#v", got)
			}
		})
	}
}

// One wrong character anywhere is found: 2^-32 of all cases aside.
func TestJoinTokenChecksum(t *testing.T) {
	good := testToken(t, testAuthority(t), RoleNode).Text()
	rapid.Check(t, func(r *rapid.T) {
		b := []byte(good)
		i := rapid.IntRange(len(joinTokenPrefix), len(b)-1).Draw(r, "place")
		c := rapid.SampledFrom([]byte("abcdefghijklmnopqrstuvwxyz234567")).Draw(r, "character")
		if b[i] == c {
			return
		}
		b[i] = c
		if _, err := ParseJoinToken(string(b)); mesh.ReasonOf(err) != TokenDamaged {
			r.Fatalf("%s was taken for %s: %v", b, good, err)
		}
	})
}

func TestGrant(t *testing.T) {
	a := testAuthority(t)
	next := must[*Authority](t)(a.Next(noon()))
	token, other := testToken(t, a, RoleNode), testToken(t, a, RoleNode)
	g := token.Grant()
	key, message := token.key(), []byte("hello")
	if !g.proves(key.Public(), message, key.signed(purposeToken, message)) {
		t.Error("the token does not prove itself")
	}
	if g.proves(key.Public(), []byte("other"), key.signed(purposeToken, message)) {
		t.Error("a proof for another connection")
	}
	if k := other.key(); g.proves(k.Public(), message, k.signed(purposeToken, message)) {
		t.Error("another token's secret")
	}
	if k := testKey(1); g.proves(key.Public(), message, k.signed(purposeToken, message)) {
		t.Error("the public half alone")
	}
	revoked := g
	revoked.Revoked = true
	for name, c := range map[string]struct {
		grant Grant
		role  Role
		pin   Pin
		now   time.Time
		want  mesh.Reason
	}{
		"good":                {g, RoleNode, a.Pin(), noon(), ""},
		"to the last second":  {g, RoleNode, a.Pin(), noon().Add(24*time.Hour - 1), ""},
		"expired":             {g, RoleNode, a.Pin(), noon().Add(24 * time.Hour), TokenExpired},
		"taken back":          {revoked, RoleNode, a.Pin(), noon(), TokenRevoked},
		"of before a removal": {g, RoleNode, next.Pin(), noon(), TokenOutdated},
		"for another role":    {g, RoleOperator, a.Pin(), noon(), WrongRole},
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, c.grant.Check(c.role, c.pin, c.now), c.want) })
	}
}

// A token whose ID or role somebody changed in the text proves nothing: both its ends
// are bound to the ID, and the role is the Grant's.
func TestTokenKeyIsBoundToItsID(t *testing.T) {
	token := testToken(t, testAuthority(t), RoleNode)
	forged := token
	forged.ID = "0000000000000000"
	if forged.key().Public() == token.key().Public() {
		t.Error("the secret of one token is that of another")
	}
}

func FuzzParseJoinToken(f *testing.F) {
	old, _, _ := readFormat1(f)
	f.Add(old.Token)
	f.Add(joinTokenPrefix)
	f.Add("sluice-2-aaaa\n")
	f.Add(retold(old.Token, func(b []byte) []byte { return append(b, 7) }))
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseJoinToken(text)
		if err != nil {
			return
		}
		again, err := ParseJoinToken(got.Text())
		if err != nil || again != got {
			t.Fatalf("%q reads as %#v, and that as %#v, %v", text, got, again, err)
		}
	})
}
