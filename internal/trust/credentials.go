package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Credentials are what a member proves itself with, and whom it believes: one key, one
// certificate, one generation of the CA. Both are replaced while connections are made.
// Safe for concurrent use.
type Credentials struct {
	key     Key
	now     func() time.Time
	admit   func(Identity) error
	renewed func(certificate []byte)

	current  atomic.Pointer[credential]
	changing sync.Mutex // held while current is replaced
}

// credential is one state of Credentials; it does not change.
type credential struct {
	authority *Authority
	leaf      *x509.Certificate
	identity  Identity
	chain     tls.Certificate
}

// CredentialsConfig is what Credentials are made from.
type CredentialsConfig struct {
	Key       Key
	Authority *Authority // with its key at a node

	// Certificate is the one that was kept, in DER. A node that holds the CA's key makes
	// another where it is nil, of another generation or due.
	Certificate []byte

	Now func() time.Time

	// Admit refuses a member whose certificate is good, such as a node that was removed a
	// moment ago; nil refuses nobody. Called from many goroutines, and must not block.
	Admit func(Identity) error

	// Renewed is told each certificate that is made here, so that it is kept; may be nil.
	// It must not call Credentials' Replace or Renew.
	Renewed func(certificate []byte)
}

// NewCredentials takes up a member's key and certificate.
func NewCredentials(cfg CredentialsConfig) (*Credentials, error) {
	c := &Credentials{key: cfg.Key, now: cfg.Now, admit: cfg.Admit, renewed: cfg.Renewed}
	one, err := c.kept(cfg.Authority, cfg.Certificate)
	if err == nil && !c.due(one) {
		c.current.Store(one)
		return c, nil
	}
	if !cfg.Authority.CanIssue() {
		if err == nil { // due, and only a node can help
			c.current.Store(one)
			return c, nil
		}
		return nil, err
	}
	if err := c.issue(cfg.Authority); err != nil {
		return nil, err
	}
	return c, nil
}

// kept judges a certificate of before.
func (c *Credentials) kept(a *Authority, der []byte) (*credential, error) {
	id, err := a.Identify(der, c.now())
	if err != nil {
		return nil, err
	}
	if id.Key != c.key.Public() {
		return nil, badIdentity("the key beside it is another's")
	}
	return newCredential(a, c.key, der, id)
}

func newCredential(a *Authority, key Key, der []byte, id Identity) (*credential, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &credential{
		authority: a, leaf: leaf, identity: id,
		// With the CA's, since who joins knows nothing of it but the pin.
		chain: tls.Certificate{Certificate: [][]byte{der, a.Certificate()}, PrivateKey: key.private, Leaf: leaf},
	}, nil
}

// issue makes this node's certificate by a and takes both.
func (c *Credentials) issue(a *Authority) error {
	der, err := a.Issue(RoleNode, "", c.key.Public(), c.now())
	if err != nil {
		return err
	}
	one, err := c.kept(a, der)
	if err != nil {
		return err
	}
	c.current.Store(one)
	if c.renewed != nil {
		c.renewed(der)
	}
	return nil
}

// Certificate is the member's certificate, in DER. It must not be changed.
func (c *Credentials) Certificate() []byte { return c.current.Load().leaf.Raw }

// Authority is the CA that is believed.
func (c *Credentials) Authority() *Authority { return c.current.Load().authority }

// Identity is whom the member's own certificate names.
func (c *Credentials) Identity() Identity { return c.current.Load().identity }

// Identify judges another member's certificate, such as that in a node's record, as a
// connection would: by the CA that is believed now, by the time, and by Admit.
func (c *Credentials) Identify(der []byte) (Identity, error) {
	id, err := c.Authority().Identify(der, c.now())
	if err != nil || c.admit == nil {
		return id, err
	}
	return id, c.admit(id)
}

// Replace takes up a CA that came from another node, makes this node's certificate by it,
// and believes no other from then on. It tells whether it did: a CA that does not come
// after the present one changes nothing, so it does not matter how often and in which
// order they arrive. Connections that are open stay so: whoever holds them asks Peer.
func (c *Credentials) Replace(a *Authority) (bool, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	if a.Compare(c.Authority()) <= 0 {
		return false, nil
	}
	err := c.issue(a)
	return err == nil, err
}

// Renew makes another certificate where it is time, and tells whether it did. It never
// does where the CA's key is not here.
func (c *Credentials) Renew() (bool, error) {
	c.changing.Lock()
	defer c.changing.Unlock()
	one := c.current.Load()
	if !one.authority.CanIssue() || !c.due(one) {
		return false, nil
	}
	err := c.issue(one.authority)
	return err == nil, err
}

// Due tells whether the certificate is to be replaced, by this side where the CA's key is here,
// or by asking a node.
func (c *Credentials) Due() bool { return c.due(c.current.Load()) }

// due tells whether a certificate is to be replaced: its time has come, or it was made
// while the clock was ahead and others take it for one of the future. A clock before the
// CA's making is wrong and says nothing.
func (c *Credentials) due(one *credential) bool {
	now := c.now()
	if now.Before(one.authority.cert.NotBefore) {
		return false
	}
	return !now.Before(renewAt(one.leaf)) || one.leaf.NotBefore.Sub(now) > Tolerance/2
}

// renewCheck is how often Run looks. A timer for the whole way would run beside the
// clock, which may be set in between.
const renewCheck = time.Hour

// Run renews the certificate whenever it is time, until ctx ends.
func (c *Credentials) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(renewCheck)
	defer tick.Stop()
	for {
		switch did, err := c.Renew(); {
		case err != nil:
			log.Error("certificate not renewed", "err", err)
		case did:
			log.Info("certificate renewed", "until", c.Identity().NotAfter)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// judge is Identify for what a connection brought, and for the roles that it is open to.
func (c *Credentials) judge(certs []*x509.Certificate, allowed []Role) (Identity, error) {
	if len(certs) == 0 {
		return Identity{}, mesh.Refuse(BadCertificate, "join the cluster first", "the other side has no certificate")
	}
	id, err := c.Authority().identify(certs[0], c.now())
	if err != nil {
		return Identity{}, err
	}
	if err := mustBe(id, allowed); err != nil {
		return Identity{}, err
	}
	if c.admit == nil {
		return id, nil
	}
	return id, c.admit(id)
}
