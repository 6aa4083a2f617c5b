// Package login keeps what an operator's or viewer's machine proves itself with to the nodes of a
// cluster: a key that never leaves it, the certificate that a token was changed for, and the CA
// by which it knows the nodes. One file a login, which only its owner may read.
package login

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The reasons of this package.
const (
	NoLogin mesh.Reason = "NoLogin" // for that node, and none that could be meant
	Damaged mesh.Reason = "LoginDamaged"
	Exposed mesh.Reason = "LoginExposed" // others may read the file
)

// Again is what to do about a login that is of no use any more.
const Again = "make a token on a node with 'sluice token create --role operator', or viewer, and run 'sluice login ADDR[:PORT] --token TOKEN'"

// Login is one way into a cluster. It does not change.
type Login struct {
	host  string
	key   trust.Key
	creds *trust.Credentials
	now   func() time.Time
}

// Asking is who wants to log in.
type Asking struct {
	Host  string // of the node that is asked, ADDR:PORT
	Token trust.JoinToken
	Name  string // what the person is called in certificates and logs
	Now   func() time.Time
}

// Make changes a token for a login at the node at the other end of conn. It returns the cluster's
// refusal as it is, or an error of conn, and leaves conn open.
func Make(ctx context.Context, conn net.Conn, a Asking) (*Login, error) {
	if a.Token.Role == trust.RoleNode {
		return nil, mesh.Refuse(trust.WrongRole, "run 'sluice join' with it on the machine that is to be a node, or "+Again, "the token makes a node")
	}
	key := trust.NewKey()
	admission, err := trust.Join(ctx, conn, trust.Joining{Token: a.Token, Key: key, Name: a.Name, Now: a.Now})
	if err != nil {
		return nil, err
	}
	return newLogin(a.Host, key, admission.Authority, admission.Certificate, a.Now)
}

func newLogin(host string, key trust.Key, authority *trust.Authority, cert []byte, now func() time.Time) (*Login, error) {
	creds, err := trust.NewCredentials(trust.CredentialsConfig{Key: key, Authority: authority, Certificate: cert, Now: now})
	if mesh.ReasonOf(err) == trust.CertExpired {
		return nil, mesh.Refuse(trust.CertExpired, Again, "the login at %s has ended: nobody used it in its last months, when it renews itself", host)
	}
	if err != nil {
		return nil, fmt.Errorf("take up the login at %s: %w", host, err)
	}
	return &Login{host: host, key: key, creds: creds, now: now}, nil
}

// Host is the node by which it was made, ADDR:PORT.
func (l *Login) Host() string { return l.host }

// Who is whom it is of, and until when.
func (l *Login) Who() trust.Identity { return l.creds.Identity() }

// TLS is for one connection to the API of any node of the cluster.
func (l *Login) TLS() *tls.Config { return l.creds.Client(trust.ProtocolAPI, "") }

// Due tells whether it is time to ask a node for another certificate: half of the time of this
// one is over.
func (l *Login) Due() bool { return l.creds.Due() }

// Renewed is the login with another certificate, which must be of the same person.
func (l *Login) Renewed(cert []byte) (*Login, error) {
	next, err := newLogin(l.host, l.key, l.creds.Authority(), cert, l.now)
	if err != nil {
		return nil, err
	}
	if have, got := l.Who(), next.Who(); got.Role != have.Role || got.Name != have.Name {
		return nil, mesh.Refuse(trust.BadCertificate, Again, "the node made a certificate for %s in the place of that of %s", got, have)
	}
	return next, nil
}
