package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// How long certificates live. A node renews its own by itself; that of an operator
// or viewer is kept by a person, who asks for another.
const (
	NodeLifetime   = 30 * 24 * time.Hour
	ClientLifetime = 365 * 24 * time.Hour
)

// backdated is how much before its making a certificate begins, so that it is of use at
// once where clocks differ by seconds and dates are judged by other programs.
const backdated = time.Hour

// Issue makes the certificate of a member with the given key: of a node, whose ID is the
// key's, or of an operator or viewer of that name. It refuses with NotIssuer where the
// CA's key is not here.
func (a *Authority) Issue(role Role, name string, key PublicKey, now time.Time) ([]byte, error) {
	if !a.CanIssue() {
		return nil, mesh.Refuse(NotIssuer, "ask a node for a certificate", "the CA's key is not on this machine")
	}
	id := Identity{Role: role, Name: name, Key: key}
	if role == RoleNode {
		id.Node = key.ID()
	}
	if err := id.validate(); err != nil {
		return nil, err
	}
	// A clock before the CA's making is wrong: what began then would be expired elsewhere.
	if made := a.cert.NotBefore.Add(backdated); now.Before(made) {
		now = made
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: id.String()},
		URIs:                  []*url.URL{nameURI(string(role), id.name())},
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(lifetime(role)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages(role),
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, ed25519.PublicKey(key[:]), a.key.private)
	if err != nil {
		return nil, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	return der, nil
}

func lifetime(role Role) time.Duration {
	if role == RoleNode {
		return NodeLifetime
	}
	return ClientLifetime
}

func usages(role Role) []x509.ExtKeyUsage {
	if role == RoleNode {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// renewAt is when a certificate is renewed: between a half and two thirds of its time,
// which place of that its serial number says, so that nodes that were admitted at one
// time do not renew at one time and two tries at one certificate agree.
func renewAt(cert *x509.Certificate) time.Time {
	life := cert.NotAfter.Sub(cert.NotBefore)
	span := uint64(max(life/6, 1))
	return cert.NotBefore.Add(life/2 + time.Duration(cert.SerialNumber.Uint64()%span))
}
