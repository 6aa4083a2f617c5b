package trust

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Bundle is what every node of the cluster holds and nobody else: the CA with its key,
// and the keys of gossip. It does not change, and does not print what it holds.
type Bundle struct {
	Authority *Authority

	// Gossip are the keys of gossip: the first is used to send, all to read.
	Gossip []Secret
}

const (
	gossipLimit = 8 // keys of gossip in a bundle
	bundleLimit = 16 << 10

	purposeGossip = "sluice-gossip-key/1"
)

type wireBundle struct {
	Version   int      `json:"v"`
	Authority []byte   `json:"authority"` // DER
	Key       []byte   `json:"key"`       // seed
	Gossip    [][]byte `json:"gossip"`
}

// NewBundle is what a new cluster begins with.
func NewBundle(now time.Time) (Bundle, error) {
	a, err := NewAuthority(now)
	return Bundle{Authority: a, Gossip: []Secret{NewSecret()}}, err
}

// Next is what the cluster goes on with where a node was removed: another generation of
// the CA and one new key of gossip. Nothing of b is in it.
func (b Bundle) Next(now time.Time) (Bundle, error) {
	a, err := b.Authority.Next(now)
	return Bundle{Authority: a, Gossip: []Secret{NewSecret()}}, err
}

// GossipKey is the key of gossip that a random nonce stands for within this generation. Who has
// another one of its keys cannot make it: that takes the CA's (HKDF, RFC 5869).
func (b Bundle) GossipKey(nonce []byte) (Secret, error) {
	if err := b.validate(); err != nil {
		return Secret{}, err
	}
	raw, err := hkdf.Key(sha256.New, b.Authority.key.Seed(), nonce, purposeGossip, SecretSize)
	if err != nil {
		return Secret{}, fmt.Errorf("derive key of gossip: %w", err)
	}
	return Secret(raw), nil
}

// Marshal is the bundle as ParseBundle reads it: a secret in clear, for a disk that only
// root reads or for SealFor.
func (b Bundle) Marshal() ([]byte, error) {
	w, err := b.wire()
	if err != nil {
		return nil, err
	}
	return encode(w)
}

func (b Bundle) wire() (wireBundle, error) {
	if err := b.validate(); err != nil {
		return wireBundle{}, err
	}
	w := wireBundle{Version: formatVersion, Authority: b.Authority.Certificate(), Key: b.Authority.key.Seed()}
	for _, s := range b.Gossip {
		w.Gossip = append(w.Gossip, s[:])
	}
	return w, nil
}

// ParseBundle is the inverse of Marshal. It refuses with BadMessage, BadCertificate or
// NewerVersion, and does not say what the bytes hold.
func ParseBundle(data []byte) (Bundle, error) {
	var w wireBundle
	if err := decode("the bundle of keys", data, bundleLimit, &w); err != nil {
		return Bundle{}, err
	}
	return w.bundle()
}

func (w wireBundle) bundle() (Bundle, error) {
	a, err := RestoreAuthority(w.Authority, w.Key)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{Authority: a}
	for _, raw := range w.Gossip {
		if len(raw) != SecretSize {
			return Bundle{}, damaged("the bundle of keys", "a key of gossip has another length")
		}
		b.Gossip = append(b.Gossip, Secret(raw))
	}
	return b, b.validate()
}

func (b Bundle) validate() error {
	if b.Authority == nil || !b.Authority.CanIssue() {
		return mesh.Refuse(NotIssuer, "take it from a node", "a bundle without the CA's key")
	}
	if n := len(b.Gossip); n == 0 || n > gossipLimit {
		return damaged("the bundle of keys", fmt.Sprintf("it has %d keys of gossip, and 1 to %d are allowed", n, gossipLimit))
	}
	return nil
}
