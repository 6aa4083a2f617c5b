package trust

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTokenRoundTrip(t *testing.T) {
	s := NewSecret()
	got, err := ParseToken("  " + s.Token() + "\n")
	if err != nil || got != s {
		t.Fatalf("ParseToken(Token()) = %v, %v", got, err)
	}
	if NewSecret() == s {
		t.Fatal("two secrets are equal")
	}
}

func TestParseTokenRefuses(t *testing.T) {
	good := Secret{1, 2, 3}.Token()
	swapped := []byte(good)
	swapped[12] ^= 1 // another letter of the alphabet, or none
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":           {"", ErrNotToken},
		"another version": {"sluice-2-" + strings.TrimPrefix(good, tokenPrefix), ErrNotToken},
		"prefix only":     {tokenPrefix, ErrDamagedToken},
		"cut":             {good[:len(good)-1], ErrDamagedToken},
		"longer":          {good + "a", ErrDamagedToken},
		"wrong character": {string(swapped), ErrDamagedToken},
		"upper case":      {tokenPrefix + strings.ToUpper(good[len(tokenPrefix):]), ErrDamagedToken},
		"line break":      {good[:20] + "\n" + good[20:], ErrDamagedToken},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseToken(c.text); !errors.Is(err, c.want) {
				t.Fatalf("ParseToken(%q): %v, want %v", c.text, err, c.want)
			}
		})
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := Secret{0xab, 0xcd}
	text := fmt.Sprintf("%v %s %+v %#v %v", s, s, s, s, &s)
	if strings.Contains(text, "171") || strings.Contains(text, "ab") {
		t.Fatalf("a secret was printed: %s", text)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(Secret{}.Token())
	f.Add(tokenPrefix)
	f.Add("sluice-1-aaaa\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseToken(text)
		if err == nil && s.Token() != strings.TrimSpace(text) {
			t.Fatalf("%q is accepted and reads as %q", text, s.Token())
		}
	})
}
