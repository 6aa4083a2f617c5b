package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// PinSize is the number of bytes of a Pin.
const PinSize = sha256.Size

// Pin tells one CA from every other: the SHA-256 of its certificate.
type Pin [PinSize]byte

// String is the beginning of the pin, enough to compare by eye.
func (p Pin) String() string { return hex.EncodeToString(p[:8]) }

// Authority is one generation of the cluster's CA, with its key at a node and without
// at an operator or viewer. It does not change and is safe for concurrent use.
type Authority struct {
	cert       *x509.Certificate
	pin        Pin // kept, as it is asked for all the time
	generation uint32
	key        Key // zero where it may not issue
}

// NewAuthority makes the CA of a new cluster: generation 1.
func NewAuthority(now time.Time) (*Authority, error) { return newAuthority(1, now) }

// Next makes the generation after a, with a key of its own: what a issued, and whoever
// knows a's key, counts no more where it is installed.
func (a *Authority) Next(now time.Time) (*Authority, error) {
	if a.generation == math.MaxUint32 {
		return nil, mesh.Refuse(mesh.PoolExhausted, "make a new cluster", "generation %d of the CA is the last", a.generation)
	}
	return newAuthority(a.generation+1, now)
}

func newAuthority(generation uint32, now time.Time) (*Authority, error) {
	key := NewKey()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("sluice cluster, generation %d", generation)},
		URIs:      []*url.URL{{Scheme: uriScheme, Host: hostAuthority, Path: "/" + strconv.FormatUint(uint64(generation), 10)}},
		NotBefore: now.Add(-backdated),
		// RFC 5280, 4.1.2.5: no end. A cluster must not stop at a date that nobody thought of;
		// a CA ends when the next generation is made.
		NotAfter:              time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	public := key.Public()
	der, err := x509.CreateCertificate(rand.Reader, template, template, ed25519.PublicKey(public[:]), key.private)
	if err != nil {
		return nil, fmt.Errorf("make CA certificate: %w", err)
	}
	return RestoreAuthority(der, key.Seed())
}

// authorityLimit is how many bytes a CA's certificate may have; ours has about 400.
const authorityLimit = 4 << 10

// ParseAuthority reads a CA's certificate. The CA cannot issue: its key is elsewhere.
func ParseAuthority(der []byte) (*Authority, error) {
	if len(der) > authorityLimit {
		return nil, badAuthority("it has %d bytes", len(der))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, badAuthority("%.200s", printable(err.Error()))
	}
	if !cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, badAuthority("it may not issue certificates")
	}
	if _, ok := cert.PublicKey.(ed25519.PublicKey); !ok {
		return nil, badAuthority("its key is not Ed25519")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, badAuthority("it is not signed by itself")
	}
	host, name, err := readURI(cert)
	if err != nil {
		return nil, err
	}
	generation, err := strconv.ParseUint(name, 10, 32)
	if err != nil || host != hostAuthority || generation == 0 || name[0] == '0' {
		return nil, badAuthority("it names no generation")
	}
	return &Authority{cert: cert, pin: sha256.Sum256(cert.Raw), generation: uint32(generation)}, nil
}

func badAuthority(how string, args ...any) error {
	return mesh.Refuse(BadCertificate, "take the certificate from a node of the cluster", "the CA's certificate is none of ours: %s", fmt.Sprintf(how, args...))
}

// RestoreAuthority reads a CA's certificate and the seed of its key.
func RestoreAuthority(der, seed []byte) (*Authority, error) {
	a, err := ParseAuthority(der)
	if err != nil {
		return nil, err
	}
	key, err := ParseKey(seed)
	if err != nil {
		return nil, err
	}
	if public := key.Public(); !bytes.Equal(a.cert.PublicKey.(ed25519.PublicKey), public[:]) {
		return nil, badAuthority("the key beside it is another's")
	}
	a.key = key
	return a, nil
}

// Certificate is the CA's certificate as ParseAuthority reads it. It must not be changed.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// Made is when the CA was made, by the clock of who made it.
func (a *Authority) Made() time.Time { return a.cert.NotBefore.Add(backdated) }

// Generation counts from 1.
func (a *Authority) Generation() uint32 { return a.generation }

// Pin tells this CA from all others.
func (a *Authority) Pin() Pin { return a.pin }

// CanIssue tells whether the CA's key is here.
func (a *Authority) CanIssue() bool { return a.key.private != nil }

// Public is the CA without its key.
func (a *Authority) Public() *Authority {
	return &Authority{cert: a.cert, pin: a.pin, generation: a.generation}
}

// Compare orders CAs of one cluster, so that all nodes hold to the same: the later
// generation is greater, and of two that were made at one time on two sides of a
// partition, the one with the greater pin.
func (a *Authority) Compare(b *Authority) int {
	if a.generation != b.generation {
		if a.generation < b.generation {
			return -1
		}
		return 1
	}
	return bytes.Compare(a.pin[:], b.pin[:])
}

// String does not show the key.
func (a *Authority) String() string {
	return fmt.Sprintf("CA generation %d, %s", a.generation, a.Pin())
}

// GoString does not show it either.
func (a *Authority) GoString() string { return "trust.Authority(" + a.String() + ")" }

// LogValue does not show it either.
func (a *Authority) LogValue() slog.Value { return slog.StringValue(a.String()) }
