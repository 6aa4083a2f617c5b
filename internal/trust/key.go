package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"

	"github.com/sluice-mesh/sluice/mesh"
)

// KeySize is the number of bytes of a Key's seed and of a PublicKey.
const KeySize = 32

// Key is the private key of a node, or of an operator's or viewer's client: Ed25519
// (RFC 8032). It never leaves the machine where it was made. Its zero value is
// no key and must not be used. It prints and logs as a word. Safe for concurrent use.
type Key struct {
	private ed25519.PrivateKey
}

// NewKey makes a random key.
func NewKey() Key {
	var seed [KeySize]byte
	rand.Read(seed[:]) // never fails: it ends the program where there is no randomness
	return keyOf(seed)
}

func keyOf(seed [KeySize]byte) Key { return Key{private: ed25519.NewKeyFromSeed(seed[:])} }

// ParseKey takes up the seed of a key that was kept.
func ParseKey(seed []byte) (Key, error) {
	if len(seed) != KeySize {
		return Key{}, mesh.Refuse(BadMessage, "restore the data directory, or begin anew with an empty one",
			"a key has %d bytes, and this one %d", KeySize, len(seed))
	}
	return keyOf([KeySize]byte(seed)), nil
}

// Seed is what ParseKey reads: a secret.
func (k Key) Seed() []byte { return k.private.Seed() }

// Valid tells a key from the zero Key, which can do nothing.
func (k Key) Valid() bool { return k.private != nil }

// Public is the key that others know it by.
func (k Key) Public() PublicKey { return PublicKey(k.private[ed25519.SeedSize:]) }

// ID is the ID of the node whose key this is.
func (k Key) ID() mesh.NodeID { return k.Public().ID() }

// String does not show the key.
func (Key) String() string { return "(private key)" }

// GoString does not show it either.
func (Key) GoString() string { return "trust.Key(…)" }

// LogValue does not show it either.
func (Key) LogValue() slog.Value { return slog.StringValue("(private key)") }

// PublicKey is the public half of a Key.
type PublicKey [KeySize]byte

// ID is the ID of the node that has this key: the first hex digits of its SHA-256,
// as many as an ID has. That it follows from the key is what makes
// an ID worth something: a CA can admit a node, but cannot name it after another.
func (p PublicKey) ID() mesh.NodeID {
	sum := sha256.Sum256(p[:])
	return mesh.NodeID(hex.EncodeToString(sum[:])[:mesh.IDLength])
}

// signed is the one door to Ed25519: every signature names what it is for, so that
// one made for a record is none for a join request. The terminator keeps a purpose
// from being the beginning of another.
func (k Key) signed(purpose string, message []byte) []byte {
	return ed25519.Sign(k.private, inDomain(purpose, message))
}

func (p PublicKey) verifies(purpose string, message, signature []byte) bool {
	return ed25519.Verify(p[:], inDomain(purpose, message), signature)
}

func inDomain(purpose string, message []byte) []byte {
	b := make([]byte, 0, len(purpose)+1+len(message))
	b = append(b, purpose...)
	b = append(b, 0)
	return append(b, message...)
}
