package trust

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// TokenID names a token in lists and where it is taken back: lower-case hex, no secret.
type TokenID string

const (
	tokenIDSize     = 8
	tokenSecretSize = 16
)

// JoinToken is what an operator hands to a machine that is to become a member: whom to
// believe, and the secret by which the cluster believes it. It prints and logs as its
// ID; Text alone holds the secret.
type JoinToken struct {
	ID      TokenID
	Role    Role
	Expires time.Time // whole seconds; the cluster judges it by its Grant
	Pin     Pin       // of the CA

	secret [tokenSecretSize]byte
}

// NewJoinToken makes a token for the cluster of a.
func NewJoinToken(a *Authority, role Role, expires time.Time) (JoinToken, error) {
	if _, err := ParseRole(string(role)); err != nil {
		return JoinToken{}, err
	}
	var id [tokenIDSize]byte
	t := JoinToken{Role: role, Expires: time.Unix(expires.Unix(), 0), Pin: a.Pin()}
	rand.Read(id[:])
	rand.Read(t.secret[:])
	t.ID = TokenID(hex.EncodeToString(id[:]))
	return t, nil
}

// String is the token's ID.
func (t JoinToken) String() string { return "token " + string(t.ID) }

// GoString does not show the secret either.
func (t JoinToken) GoString() string { return "trust.JoinToken(" + string(t.ID) + ")" }

// LogValue does not show it either.
func (t JoinToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

// key is the key pair that the secret stands for. The cluster keeps but a hash of its
// public half and is shown a signature, so neither what it keeps nor what it is sent is
// of use to who wants to join.
func (t JoinToken) key() Key {
	return keyOf(sha256.Sum256(inDomain("sluice-token-key/1", append([]byte(t.ID), t.secret[:]...))))
}

const (
	joinTokenPrefix = "sluice-2-"
	joinTokenSize   = 1 + tokenIDSize + tokenSecretSize + 8 + PinSize // role, ID, secret, expiry, pin

	// joinTokenLimit is how many bytes a token may have: a later program may append what
	// this one need not know.
	joinTokenLimit = 256
)

// Text is the token as text that a person can copy: a version, then base32 of what it
// holds and of a checksum that finds a lost or mistyped character.
func (t JoinToken) Text() string {
	id, _ := hex.DecodeString(string(t.ID)) // of our own making
	raw := make([]byte, 0, joinTokenSize+checksumSize)
	raw = append(raw, byte(slices.Index(roles(), t.Role)))
	raw = append(raw, id...)
	raw = append(raw, t.secret[:]...)
	raw = binary.BigEndian.AppendUint64(raw, uint64(t.Expires.Unix()))
	raw = append(raw, t.Pin[:]...)
	return joinTokenPrefix + encoding().EncodeToString(append(raw, joinChecksum(raw)...))
}

func joinChecksum(raw []byte) []byte {
	sum := sha256.Sum256(append([]byte(joinTokenPrefix), raw...))
	return sum[:checksumSize]
}

// ParseJoinToken is the inverse of Text. It refuses with TokenDamaged or NewerVersion,
// and never says what the text holds.
func ParseJoinToken(text string) (JoinToken, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, joinTokenPrefix)
	if !ok {
		return JoinToken{}, notJoinToken(text)
	}
	if len(body) > encoding().EncodedLen(joinTokenLimit) {
		return JoinToken{}, damagedToken()
	}
	raw, err := encoding().DecodeString(body)
	if err != nil || len(raw) < joinTokenSize+checksumSize {
		return JoinToken{}, damagedToken()
	}
	raw, sum := raw[:len(raw)-checksumSize], raw[len(raw)-checksumSize:]
	// Comparing the whole text refuses what decodes alike: a line break within, or other
	// spare bits at the end.
	if !bytes.Equal(sum, joinChecksum(raw)) || encoding().EncodeToString(append(slices.Clip(raw), sum...)) != body {
		return JoinToken{}, damagedToken()
	}
	if int(raw[0]) >= len(roles()) {
		return JoinToken{}, newer("the token's role", int(raw[0]), len(roles())-1)
	}
	t := JoinToken{Role: roles()[raw[0]]}
	raw = raw[1:]
	t.ID, raw = TokenID(hex.EncodeToString(raw[:tokenIDSize])), raw[tokenIDSize:]
	raw = raw[copy(t.secret[:], raw):]
	t.Expires, raw = time.Unix(int64(binary.BigEndian.Uint64(raw)), 0), raw[8:]
	copy(t.Pin[:], raw)
	return t, nil
}

func damagedToken() error {
	return mesh.Refuse(TokenDamaged, "copy the whole token again", "the token is not complete or has a wrong character")
}

func notJoinToken(text string) error {
	if strings.HasPrefix(text, tokenPrefix) {
		return mesh.Refuse(TokenDamaged, doNewToken, "the token is of version 1, which held a cluster's secret itself")
	}
	const family = "sluice-"
	version, _, ok := strings.Cut(strings.TrimPrefix(text, family), "-")
	if ok && strings.HasPrefix(text, family) && len(version) <= 3 && strings.Trim(version, "0123456789") == "" && version != "" {
		return mesh.Refuse(NewerVersion, doUpdate, "the token has version %s, and this program knows up to 2", version)
	}
	return mesh.Refuse(TokenDamaged, "copy the whole token again", "a token begins with %s", joinTokenPrefix)
}
