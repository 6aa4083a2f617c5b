package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// membership is what makes this node a member of a cluster. It does not change; another
// takes its place.
type membership struct {
	bundle trust.Bundle
	cert   []byte // this node's, DER

	lineage []*trust.Authority // the CAs that it believed before this one, without keys, the oldest first
	trail   trust.Trail        // to the bundle's CA, from the one by which this node, or who let it in, came in
}

// credentials makes what this node proves itself with. Where the certificate that was kept is
// due, another one is made.
func (c *cluster) credentials(m *membership) (*trust.Credentials, error) {
	creds, err := trust.NewCredentials(trust.CredentialsConfig{
		Key: c.key, Authority: m.bundle.Authority, Certificate: m.cert, Now: c.now, Admit: c.expelled.admit,
		Renewed: func(cert []byte) {
			if err := c.store.putCertificate(cert); err != nil {
				c.log.Error("a new certificate was not kept", "err", err) // one more is made after a restart
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("take up this node's certificate: %w", err)
	}
	return creds, nil
}

// newMember is the first member of a new cluster.
func (c *cluster) newMember() (*membership, error) {
	bundle, err := trust.NewBundle(c.now())
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	cert, err := bundle.Authority.Issue(trust.RoleNode, "", c.key.Public(), c.now())
	if err != nil {
		return nil, fmt.Errorf("make this node's certificate: %w", err)
	}
	return &membership{bundle: bundle, cert: cert}, nil
}

// admitted asks the node at seed for admission with a token.
func (c *cluster) admitted(ctx context.Context, seed netip.AddrPort, token trust.JoinToken) (*membership, error) {
	if token.Role != trust.RoleNode {
		return nil, mesh.Refuse(trust.WrongRole, "make one with 'sluice token create --role node'", "the token is for role %s, and makes no node", token.Role)
	}
	conn, err := c.network.Dial(ctx, seed)
	if err != nil {
		return nil, mesh.Refuse(gossip.Unreachable, "check the address and port, that 'sluice agent' runs there, and that TCP and UDP pass the firewalls",
			"no node answers at %s: %v", seed, err)
	}
	defer conn.Close()
	a, err := trust.Join(ctx, conn, trust.Joining{Token: token, Key: c.key, Now: c.now})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, mesh.Refuse(gossip.Unreachable, "check the address and the firewalls, then try again", "the node at %s did not answer in time", seed)
	case mesh.ReasonOf(err) != "":
		return nil, err
	case err != nil:
		return nil, mesh.Refuse(gossip.Unreachable, "check that the address and port are those of a sluice agent in a cluster", "what is at %s does not admit anybody: %v", seed, err)
	}
	return &membership{bundle: trust.Bundle{Authority: a.Authority, Gossip: a.Gossip}, cert: a.Certificate, trail: a.Trail}, nil
}

// protection is gossip.Secure by certificates, and the door for those who have none yet.
type protection struct {
	creds *trust.Credentials
	door  *trust.Door
	log   *slog.Logger

	admit   func(trust.Identity) error // refuses who was removed since
	refused func(peer net.Addr)        // who does not believe this node, or is not believed by it
}

// Dial takes an outgoing stream for records.
func (p protection) Dial(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	t := tls.Client(conn, p.creds.Client(trust.ProtocolSync, ""))
	if err := t.HandshakeContext(ctx); err != nil {
		if mesh.ReasonOf(err) == trust.WrongCluster {
			p.refused(conn.RemoteAddr())
		}
		return nil, "", err
	}
	id, err := p.creds.Peer(t.ConnectionState())
	return p.judged(watchedConn{t, func() { p.refused(conn.RemoteAddr()) }}, id), id.Node, err
}

// Accept takes an incoming one, or serves who wants to become a member.
func (p protection) Accept(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	t := tls.Server(conn, p.creds.Server(trust.ProtocolSync, trust.ProtocolJoin, trust.ProtocolReturn))
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	if trust.Protocol(t.ConnectionState().NegotiatedProtocol) != trust.ProtocolSync {
		id, err := p.door.Serve(ctx, t)
		if err != nil {
			return nil, "", err
		}
		p.log.Info("a member was let in", "member", id)
		return nil, "", gossip.ErrServed
	}
	id, err := p.creds.Peer(t.ConnectionState())
	return p.judged(t, id), id.Node, err
}

func (p protection) judged(conn net.Conn, id trust.Identity) net.Conn {
	return judgedConn{conn, func() error { return p.admit(id) }}
}

// protect is how the members of m meet.
func (c *cluster) protect(m *membership, creds *trust.Credentials) protection {
	return protection{creds: creds, log: c.log, admit: c.expelled.admit, refused: c.refuses, door: c.door(m)}
}

// door is by which others become members of m.
func (c *cluster) door(m *membership) *trust.Door {
	return &trust.Door{
		Grant: c.grant, Bundle: func() trust.Bundle { return c.sharedBundle(m) }, Now: c.now, Return: c.successions,
		Admit: c.expelled.admit, Trail: m.trail,
	}
}

// Verify refuses a record that its writer did not sign. Whoever holds the key is the writer,
// since a node's ID is its key's hash.
func (c *cluster) Verify(writer mesh.NodeID, body, sig []byte) error {
	return trust.Verify(writer, body, sig)
}

// Admit refuses a record that came by a packet, which who has the key of gossip may send, if
// its writer is not known to be a member. What comes in an exchange a member vouches for, also
// for writers that were members once.
func (c *cluster) Admit(r mesh.Record) error {
	c.mu.Lock()
	creds, cert := c.creds, []byte(nil)
	if own, ok := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(r.Version.Writer)}); ok && own.Node != nil {
		cert = own.Node.Cert
	}
	c.mu.Unlock()
	if r.Node != nil {
		cert = r.Node.Cert
	}
	if creds == nil {
		return noCluster()
	}
	// It may have been certified, and be removed since.
	if err := c.expelled.admit(trust.Identity{Role: trust.RoleNode, Node: r.Version.Writer}); err != nil {
		return fmt.Errorf("admit node %s: %w", r.Version.Writer, err)
	}
	if c.certified.has(r.Version.Writer, cert, creds.Authority(), c.now()) {
		return nil
	}
	id, err := creds.Identify(cert)
	if err != nil {
		return fmt.Errorf("admit node %s: %w", r.Version.Writer, err)
	}
	if id.Node != r.Version.Writer || id.Role != trust.RoleNode {
		return mesh.Refuse(trust.BadCertificate, "look for a node that was tampered with", "node %s shows the certificate of %s", r.Version.Writer, id)
	}
	c.certified.put(id, cert, creds.Authority(), c.now())
	return nil
}

// pin is that of the CA of now; zero outside a cluster.
func (c *cluster) pin() trust.Pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.member == nil {
		return trust.Pin{}
	}
	return c.member.bundle.Authority.Pin()
}

// grant is what the cluster knows of a token.
func (c *cluster) grant(id trust.TokenID) (trust.Grant, bool) {
	t := c.snapshot().Token(mesh.TokenID(id))
	if t == nil {
		return trust.Grant{}, false
	}
	return grantOf(t)
}

// renewCheck is how often it is looked whether this node's certificate is due.
const renewCheck = time.Hour

// renew keeps this node's certificate from ending, until ctx does.
func (c *cluster) renew(ctx context.Context) error {
	tick := time.NewTicker(renewCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.renewNow(); err != nil {
			c.log.Error("the certificate was not renewed", "err", err)
		}
	}
}

func (c *cluster) renewNow() error {
	c.mu.Lock()
	creds := c.creds
	c.mu.Unlock()
	if creds == nil {
		return nil
	}
	did, err := creds.Renew()
	if err != nil || !did {
		return err
	}
	c.log.Info("the certificate was renewed", "until", creds.Identity().NotAfter)
	_, err = c.update(c.refreshOwn) // the others judge this node's packets by it
	return err
}
