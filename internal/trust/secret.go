package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// SecretSize is the number of bytes of a Secret: the key of AES-256.
const SecretSize = 32

// Secret is what makes a node a member. It prints and logs as a word, so that
// no log line gives it away; Token is the only text that holds it.
type Secret [SecretSize]byte

// NewSecret returns a random secret.
func NewSecret() Secret {
	var s Secret
	rand.Read(s[:]) // never fails: it ends the program where there is no randomness
	return s
}

// String does not show the secret.
func (Secret) String() string { return "(secret)" }

// GoString does not show it either.
func (Secret) GoString() string { return "trust.Secret(…)" }

// LogValue does not show it either.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }

// Name tells one secret from another, on all nodes alike: 16 hex digits of a hash, which say
// nothing of it.
func (s Secret) Name() string {
	sum := sha256.Sum256(inDomain("sluice-secret-name/1", s[:]))
	return hex.EncodeToString(sum[:8])
}

// What is wrong with a token.
var (
	// ErrNotToken means the text is not a token, or one of another version.
	ErrNotToken = errors.New("it does not begin with " + tokenPrefix)
	// ErrDamagedToken means it was a token once: it is cut, or a character is wrong.
	ErrDamagedToken = errors.New("it is not complete or has a wrong character")
)

const (
	tokenPrefix  = "sluice-1-"
	checksumSize = 4
)

func encoding() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// Token is the secret as text that a person can copy: a version, then base32 of
// the secret and of a checksum that finds a lost or mistyped character.
func (s Secret) Token() string {
	return tokenPrefix + encoding().EncodeToString(append(s[:], s.checksum()...))
}

func (s Secret) checksum() []byte {
	sum := sha256.Sum256(append([]byte(tokenPrefix), s[:]...))
	return sum[:checksumSize]
}

// ParseToken is the inverse of Token. The error is ErrNotToken or
// ErrDamagedToken, and never holds the text.
func ParseToken(text string) (Secret, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Secret{}, fmt.Errorf("read token: %w", ErrNotToken)
	}
	raw, err := encoding().DecodeString(body)
	if err != nil || len(raw) != SecretSize+checksumSize {
		return Secret{}, fmt.Errorf("read token: %w", ErrDamagedToken)
	}
	s := Secret(raw[:SecretSize])
	// Comparing the whole text refuses what decodes alike: a line break within,
	// or other spare bits at the end.
	if s.Token() != text {
		return Secret{}, fmt.Errorf("read token: %w", ErrDamagedToken)
	}
	return s, nil
}
