package gossip

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// authority is a CA, and tlsSecure a Secure of its certificates as a cluster has one.
type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, private}
}

const testProto, otherProto = "sluice-sync/1", "sluice-join/1"

func (a *authority) issue(t *testing.T, id mesh.NodeID) *tlsSecure {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: string(id)}, DNSNames: []string{"node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tlsSecure{cfg: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}, MinVersion: tls.VersionTLS13,
		RootCAs: pool, ClientCAs: pool, ServerName: "node", ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{testProto},
	}}
}

type tlsSecure struct{ cfg *tls.Config }

func (s *tlsSecure) Dial(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	return named(ctx, tls.Client(conn, s.cfg))
}

func (s *tlsSecure) Accept(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	cfg := s.cfg.Clone()
	cfg.NextProtos = []string{testProto, otherProto}
	c, id, err := named(ctx, tls.Server(conn, cfg))
	if err == nil && c.ConnectionState().NegotiatedProtocol == otherProto {
		_, err = io.WriteString(c, "for something else")
		return nil, id, errors.Join(err, c.Close(), ErrServed)
	}
	return c, id, err
}

func named(ctx context.Context, c *tls.Conn) (*tls.Conn, mesh.NodeID, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, "", err
	}
	return c, mesh.NodeID(c.ConnectionState().PeerCertificates[0].Subject.CommonName), nil
}

func TestExchangeOverTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, network := newAuthority(t), newMemnet()
		network.lose = func() bool { return true }
		start := func(n int, a *authority) *node {
			secure := a.issue(t, nodeID(n))
			return startIn(t, network, n, func(c *Config) { c.Secure = secure }, memAddr(1), memAddr(2))
		}
		a, b, other := start(1, ca), start(2, ca), start(3, newAuthority(t))
		for i := range 500 {
			a.write(service(i))
			b.write(service(1000 + i))
		}
		if _, err := agree([]*node{a, b}, 6*time.Second); err != nil || a.Count() != 1000 {
			t.Errorf("%d records, %v", a.Count(), err)
		}
		// The key alone is not enough: members it makes, records it brings none.
		if _, err := other.Join(t.Context(), a.addr); mesh.ReasonOf(err) != Unreachable {
			t.Errorf("joined with another CA's certificate: %v", err)
		}
		plain := startIn(t, network, 4, nil)
		if _, err := plain.Join(t.Context(), a.addr); mesh.ReasonOf(err) != Unreachable {
			t.Errorf("joined without a certificate: %v", err)
		}
		if other.Count()+plain.Count() != 0 {
			t.Errorf("a stranger has %d records", other.Count()+plain.Count())
		}
		elsewhere(t, network, ca, a)
		for _, n := range []*node{a, b, other, plain} {
			n.Close()
		}
		time.Sleep(3 * time.Minute)
	})
}

// elsewhere speaks another protocol at the same port.
func elsewhere(t *testing.T, network *memnet, ca *authority, n *node) {
	t.Helper()
	conn, err := network.from(memAddr(2).Addr()).Dial(t.Context(), n.addr)
	if err != nil {
		t.Fatal(err)
	}
	cfg := ca.issue(t, nodeID(7)).cfg
	cfg.NextProtos = []string{otherProto}
	if got, err := io.ReadAll(tls.Client(conn, cfg)); err != nil || string(got) != "for something else" {
		t.Errorf("%q, %v", got, err)
	}
}

// A copied data directory gives two nodes one ID: they do not take each other for a peer.
func TestOwnIDIsRefused(t *testing.T) {
	a := startNode(t, 1, key(1))
	b, err := Start(Config{ID: a.id, Bind: freePort(t, 2), Key: key(1), State: newMemory(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.exchange(t.Context(), a.addr); mesh.ReasonOf(err) != mesh.BadRecord {
		t.Error(err)
	}
}
