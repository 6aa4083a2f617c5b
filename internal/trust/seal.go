package trust

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha512"
	"math/big"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// What is sealed to a key is HPKE (RFC 9180) with DHKEM(X25519, HKDF-SHA256),
// HKDF-SHA256 and AES-256-GCM, to the X25519 form of the Ed25519 key: the same curve,
// of which RFC 7748, 4.1 gives the map. So a node has one key, which its ID names, and
// no second one that something else would have to vouch for.

const purposeSeal = "sluice-seal/1"

// sealLimit is how many bytes one seal may hold.
const sealLimit = 64 << 10

// Seal encrypts plaintext so that only key's holder can Open it, and only for the same
// purpose. Who sealed it is not said: what carries it must be signed.
func Seal(key PublicKey, purpose string, plaintext []byte) ([]byte, error) {
	if len(plaintext) > sealLimit {
		return nil, mesh.Refuse(BadSeal, "seal a key, and encrypt what is long by that", "%d bytes are too many to be sealed", len(plaintext))
	}
	public, err := key.sealing()
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return nil, weakKey(key)
	}
	sealed, err := hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(key, purpose), plaintext)
	if err != nil {
		return nil, weakKey(key)
	}
	return sealed, nil
}

// Open is the inverse of Seal. It refuses with BadSeal.
func (k Key) Open(purpose string, sealed []byte) ([]byte, error) {
	const do = "nothing is lost: what was sealed is taken from another node or by a new token"
	if len(sealed) > sealLimit+sealOverhead {
		return nil, mesh.Refuse(BadSeal, do, "%d sealed bytes are too many", len(sealed))
	}
	private, err := k.opening()
	if err != nil {
		return nil, err
	}
	plaintext, err := hpke.Open(private, hpke.HKDFSHA256(), hpke.AES256GCM(), sealInfo(k.Public(), purpose), sealed)
	if err != nil {
		return nil, mesh.Refuse(BadSeal, do, "what was sealed to this node for %s cannot be opened", purpose)
	}
	return plaintext, nil
}

// sealOverhead is what Seal adds: an X25519 key and the tag of AES-GCM.
const sealOverhead = 32 + 16

func sealInfo(key PublicKey, purpose string) []byte {
	return append(inDomain(purposeSeal, inDomain(purpose, nil)), key[:]...)
}

// opening is the X25519 form of the key: the scalar that Ed25519 takes from the seed,
// RFC 8032, 5.1.5.
func (k Key) opening() (hpke.PrivateKey, error) {
	sum := sha512.Sum512(k.Seed())
	private, err := ecdh.X25519().NewPrivateKey(sum[:KeySize])
	if err != nil {
		return nil, weakKey(k.Public())
	}
	return hpke.NewDHKEMPrivateKey(private)
}

// sealing is the X25519 form of the key, or BadSeal where it is a point of small order,
// with which everybody shares the same secret.
func (p PublicKey) sealing() (*ecdh.PublicKey, error) {
	// u = (1+y)/(1-y) modulo 2^255-19; the top bit is the sign of x.
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	b := p
	b[KeySize-1] &= 0x7f
	slices.Reverse(b[:])
	y, one := new(big.Int).SetBytes(b[:]), big.NewInt(1)
	inverse := new(big.Int).ModInverse(new(big.Int).Sub(one, y), prime)
	if inverse == nil { // y = 1
		return nil, weakKey(p)
	}
	u := new(big.Int).Add(one, y)
	u.Mul(u, inverse).Mod(u, prime)
	u.FillBytes(b[:])
	slices.Reverse(b[:])
	public, err := ecdh.X25519().NewPublicKey(b[:])
	if err != nil {
		return nil, weakKey(p)
	}
	// Any scalar tells a point of small order: the result is zero, which ECDH refuses.
	probe, err := ecdh.X25519().NewPrivateKey(b[:])
	if err != nil {
		return nil, weakKey(p)
	}
	if _, err := probe.ECDH(public); err != nil {
		return nil, weakKey(p)
	}
	return public, nil
}

func weakKey(p PublicKey) error {
	return mesh.Refuse(BadSeal, "remove that node: its key was not made by sluice", "nothing can be sealed to the key of node %s", p.ID())
}
