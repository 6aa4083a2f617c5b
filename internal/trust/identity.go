package trust

import (
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A certificate says whom it is for by one URI and nothing else:
// "sluice://node/<ID>", "sluice://operator/<name>", "sluice://viewer/<name>"; that of
// a CA "sluice://authority/<generation>".
const (
	uriScheme     = "sluice"
	hostAuthority = "authority"
)

// Tolerance is how far two machines' clocks may be apart: a certificate is believed
// that much before and after its time.
const Tolerance = 24 * time.Hour

// Identity is whom a certificate names.
type Identity struct {
	Role       Role
	Node       mesh.NodeID // of RoleNode
	Name       string      // of the others: what the operator called it
	Key        PublicKey
	Generation uint32 // of the CA that issued it
	NotAfter   time.Time
}

// String is "node 0123456789abcdef" or "operator NAME".
func (id Identity) String() string { return string(id.Role) + " " + id.name() }

func (id Identity) name() string {
	if id.Role == RoleNode {
		return string(id.Node)
	}
	return id.Name
}

// identityLimit is how many bytes a member's certificate may have; ours has about 400.
const identityLimit = 4 << 10

// Identify reads a member's certificate and judges it: that a issued it, that it is in
// its time, and that a node's ID is that of its key. It refuses with WrongCluster,
// CertExpired, CertOfFuture or BadCertificate.
func (a *Authority) Identify(der []byte, now time.Time) (Identity, error) {
	if len(der) > identityLimit {
		return Identity{}, badIdentity("it has %d bytes", len(der))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Identity{}, badIdentity("%.200s", printable(err.Error()))
	}
	return a.identify(cert, now)
}

func (a *Authority) identify(cert *x509.Certificate, now time.Time) (Identity, error) {
	id, err := readIdentity(cert)
	if err != nil {
		return Identity{}, err
	}
	// Asked first, since "of another cluster" says more than a date that is wrong too.
	if err := cert.CheckSignatureFrom(a.cert); err != nil {
		return Identity{}, mesh.Refuse(WrongCluster, "join it again with a new token if it belongs to this cluster",
			"the certificate of %s is not of this cluster's CA, or of a generation from before a node was removed", id)
	}
	at, err := a.judge(cert, id, now)
	if err != nil {
		return Identity{}, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return Identity{}, badIdentity("%.200s", printable(err.Error()))
	}
	id.Generation = a.generation
	return id, nil
}

// judge refuses a certificate that is out of its time, and returns a time within it. A
// clock that is before the CA was made is wrong for certain, and no date is judged by it:
// a machine without a battery starts in 1970 and must reach its cluster all the same.
func (a *Authority) judge(cert *x509.Certificate, id Identity, now time.Time) (time.Time, error) {
	const do = "set the clocks of both machines; a node that was off for long renews by itself"
	if now.Before(a.cert.NotBefore) {
		return cert.NotBefore, nil
	}
	if late := now.Sub(cert.NotAfter); late > Tolerance {
		return time.Time{}, mesh.Refuse(CertExpired, do, "the certificate of %s ended at %s", id, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if early := cert.NotBefore.Sub(now); early > Tolerance {
		return time.Time{}, mesh.Refuse(CertOfFuture, do, "the certificate of %s begins at %s", id, cert.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.Before(cert.NotBefore) {
		return cert.NotBefore, nil
	}
	if now.After(cert.NotAfter) {
		return cert.NotAfter, nil
	}
	return now, nil
}

// readIdentity reads whom a certificate names. Nothing in it is proven yet.
func readIdentity(cert *x509.Certificate) (Identity, error) {
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != KeySize {
		return Identity{}, badIdentity("its key is not Ed25519")
	}
	id := Identity{Key: PublicKey(key), NotAfter: cert.NotAfter}
	host, name, err := readURI(cert)
	if err != nil {
		return Identity{}, err
	}
	if cert.IsCA {
		return Identity{}, badIdentity("it is that of a CA")
	}
	id.Role = Role(host)
	if id.Role == RoleNode {
		id.Node = mesh.NodeID(name)
	} else {
		id.Name = name
	}
	return id, id.validate()
}

// validate refuses what no certificate may be made for.
func (id Identity) validate() error {
	if _, err := ParseRole(string(id.Role)); err != nil {
		return err
	}
	if id.Role == RoleNode {
		if id.Node != id.Key.ID() {
			return badIdentity("it names node %.40q, and its key is node %s's", id.Node, id.Key.ID())
		}
	} else if err := mesh.ValidateName(string(id.Role), id.Name); err != nil {
		return err
	}
	// A key that nothing can be sealed to would stop every later removal of a node.
	if _, err := id.Key.sealing(); err != nil {
		return badIdentity("its key is weak")
	}
	return nil
}

// readURI reads the one URI, which must be as we write it.
func readURI(cert *x509.Certificate) (host, name string, err error) {
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
		return "", "", badIdentity("it has not exactly one name")
	}
	u := cert.URIs[0]
	host, name = u.Host, strings.TrimPrefix(u.Path, "/")
	if *u != *nameURI(host, name) || name == "" || strings.ContainsAny(name, "/%") {
		return "", "", badIdentity("its name is none of ours")
	}
	return host, name, nil
}

func nameURI(host, name string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: host, Path: "/" + name}
}

func badIdentity(how string, args ...any) error {
	return mesh.Refuse(BadCertificate, "join with a new token", "the certificate is none of ours: %s", fmt.Sprintf(how, args...))
}
