package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcpeer "google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/internal/login"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// newRemoteCluster is n agents in one cluster whose API is on TCP too.
func newRemoteCluster(t *testing.T, n int) []*testAgent {
	t.Helper()
	var agents []*testAgent
	var first *sluicev1.InitResponse
	for i := range n {
		a := newStoppedAgent(t, i+1)
		a.cfg.API = netip.MustParseAddrPort(nodeAddr(i+1) + ":7957")
		a.start()
		agents = append(agents, a)
		var err error
		if i == 0 {
			first, err = a.clusters.Init(t.Context(), &sluicev1.InitRequest{})
		} else {
			_, err = a.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: first.GetJoinAddress(), Token: first.GetToken()})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return agents
}

// admitted is who came in by a token of a role: a node by gossip's port, others by the API's.
func (a *testAgent) admitted(role trust.Role) (trust.Key, *trust.Admission) {
	a.tb.Helper()
	resp, err := a.tokens.CreateToken(a.tb.Context(), &sluicev1.CreateTokenRequest{Role: string(role)})
	if err != nil {
		a.tb.Fatal(err)
	}
	at := resp.GetApiAddress()
	if role == trust.RoleNode {
		at = resp.GetJoinAddress()
	}
	key := trust.NewKey()
	admission, err := joinBy(a.tb, at, key, must(trust.ParseJoinToken(resp.GetText())))
	if err != nil {
		a.tb.Fatal(err)
	}
	return key, admission
}

func joinBy(tb testing.TB, at string, key trust.Key, token trust.JoinToken) (*trust.Admission, error) {
	tb.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	return trust.Join(tb.Context(), conn, trust.Joining{Token: token, Key: key, Name: "alice", Now: time.Now})
}

func credsOf(key trust.Key, a *trust.Authority, cert []byte) *trust.Credentials {
	return must(trust.NewCredentials(trust.CredentialsConfig{Key: key, Authority: a.Public(), Certificate: cert, Now: time.Now}))
}

func (a *testAgent) credsFor(role trust.Role) *trust.Credentials {
	a.tb.Helper()
	key, admission := a.admitted(role)
	return credsOf(key, admission.Authority, admission.Certificate)
}

// remote is a connection as any gRPC library makes it.
func (a *testAgent) remote(cfg *tls.Config) *grpc.ClientConn {
	a.tb.Helper()
	conn, err := grpc.NewClient("passthrough:///"+a.cfg.API.String(), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		a.tb.Fatal(err)
	}
	a.tb.Cleanup(func() { conn.Close() })
	return conn
}

func (a *testAgent) remoteFor(c *trust.Credentials) *grpc.ClientConn {
	a.tb.Helper()
	return a.remote(c.Client(trust.ProtocolAPI, ""))
}

func getStatus(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := sluicev1.NewStatusServiceClient(conn).GetStatus(ctx, &sluicev1.GetStatusRequest{})
	return err
}

// What internal/login makes at an agent is of use there, and renews itself.
func TestLogin(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	resp, err := a.tokens.CreateToken(t.Context(), &sluicev1.CreateTokenRequest{Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	raw := must(net.Dial("tcp", resp.GetApiAddress()))
	defer raw.Close()
	l, err := login.Make(t.Context(), raw, login.Asking{
		Host: resp.GetApiAddress(), Token: must(trust.ParseJoinToken(resp.GetText())), Name: "alice", Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := a.remote(l.TLS())
	if err := getStatus(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	renewed, err := sluicev1.NewAccessServiceClient(conn).RenewCertificate(t.Context(), &sluicev1.RenewCertificateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if l, err = l.Renewed(renewed.GetCertificate()); err != nil {
		t.Fatal(err)
	}
	if err := getStatus(t.Context(), a.remote(l.TLS())); err != nil {
		t.Error(err)
	}
}

func TestRenewCertificate(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	creds := a.credsFor(trust.RoleViewer)
	client := sluicev1.NewAccessServiceClient(a.remoteFor(creds))
	resp, err := client.RenewCertificate(t.Context(), &sluicev1.RenewCertificateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := creds.Identify(resp.GetCertificate())
	if want := creds.Identity(); err != nil || id.Role != want.Role || id.Name != want.Name || id.Key != want.Key || id.NotAfter.Before(want.NotAfter) {
		t.Errorf("got %v of %v, %v", id, want, err)
	}
	_, err = sluicev1.NewAccessServiceClient(a.conn).RenewCertificate(t.Context(), &sluicev1.RenewCertificateRequest{})
	refused(t, err, NoCertificate, codes.Unauthenticated)
}

// Of two CAs of one generation the one does not renew what the other made.
func TestRenewAcrossASplit(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	ours, _ := a.rotates(first)
	theirs, _ := b.rotates(first)
	c := a.cluster(t, ours, nil)
	must(c.believe(c.member))
	s := &accessServer{api: &api{cluster: c, config: Config{Log: slog.New(slog.DiscardHandler)}}}
	for by, want := range map[*trust.Authority]mesh.Reason{ours.Authority: "", theirs.Authority: trust.WrongCluster} {
		der := must(by.Issue(trust.RoleViewer, "alice", trust.NewKey().Public(), time.Now()))
		ctx := grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{AuthInfo: session{tls.ConnectionState{PeerCertificates: []*x509.Certificate{must(x509.ParseCertificate(der))}}}})
		ctx = context.WithValue(ctx, callerKey{}, must(by.Identify(der, time.Now()))) // as it was judged when the call came
		if _, err := s.RenewCertificate(ctx, &sluicev1.RenewCertificateRequest{}); mesh.ReasonOf(err) != want || want == "" && err != nil {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// endedCert is what a CA's key can make and no program of ours does.
func endedCert(t *testing.T, by *trust.Admission, key trust.Key) []byte {
	t.Helper()
	var secret struct {
		Key []byte `json:"key"`
	}
	bundle := trust.Bundle{Authority: by.Authority, Gossip: by.Gossip}
	if err := json.Unmarshal(must(bundle.Marshal()), &secret); err != nil {
		t.Fatal(err)
	}
	public := key.Public()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{{Scheme: "sluice", Host: "operator", Path: "/alice"}},
		NotBefore: time.Now().Add(-50 * time.Hour), NotAfter: time.Now().Add(-25 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	return must(x509.CreateCertificate(rand.Reader, template, must(x509.ParseCertificate(by.Authority.Certificate())), ed25519.PublicKey(public[:]), ed25519.NewKeyFromSeed(secret.Key)))
}

// Who has no certificate of the moment is not let in, by TLS itself.
func TestWhoIsNotLetIn(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	good := a.credsFor(trust.RoleViewer)
	key, node := a.admitted(trust.RoleNode)
	other := must(trust.NewAuthority(time.Now()))
	shows := func(key trust.Key, cert []byte) *tls.Config {
		cfg := good.Client(trust.ProtocolAPI, "")
		cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: ed25519.NewKeyFromSeed(key.Seed())}}
		return cfg
	}
	without := good.Client(trust.ProtocolAPI, "")
	without.Certificates = nil
	for name, cfg := range map[string]*tls.Config{
		"no certificate":      without,
		"another CA's":        shows(key, must(other.Issue(trust.RoleNode, "", key.Public(), time.Now()))),
		"one that ended":      shows(key, endedCert(t, node, key)),
		"another's key":       shows(trust.NewKey(), node.Certificate),
		"gossip's protocol":   good.Client(trust.ProtocolSync, ""),
		"returning nodes'":    good.Client(trust.ProtocolReturn, ""),
		"HTTP/1.1's protocol": func() *tls.Config { c := shows(key, node.Certificate); c.NextProtos = []string{"http/1.1"}; return c }(),
		"two protocols": func() *tls.Config {
			c := shows(key, node.Certificate)
			c.NextProtos = []string{"h2", "http/1.1"}
			return c
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := net.Dial("tcp", a.cfg.API.String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			conn := tls.Client(raw, cfg)
			_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
			if err = conn.Handshake(); err == nil { // TLS 1.3 tells the caller with the first read
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
	plain, err := grpc.NewClient("passthrough:///"+a.cfg.API.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := getStatus(t.Context(), plain); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
	if err := getStatus(t.Context(), a.remoteFor(good)); err != nil {
		t.Error(err)
	}
}

// A certificate of before counts no more where a node was removed, on the connection that is open
// as on another one: neither the removed node's nor an operator's.
func TestRemovalEndsConnections(t *testing.T) {
	agents := newRemoteCluster(t, 2)
	a, b := agents[0], agents[1]
	operator := a.remoteFor(a.credsFor(trust.RoleOperator))
	b.stop()
	store, content, err := openStore(b.cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.close(); err != nil {
		t.Fatal(err)
	}
	creds := credsOf(content.Key, content.Member.bundle.Authority, content.Member.cert)
	removed := a.remoteFor(creds)
	for _, conn := range []*grpc.ClientConn{operator, removed} {
		if err := getStatus(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
	events, err := sluicev1.NewEventServiceClient(removed).WatchEvents(t.Context(), &sluicev1.WatchEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	// The operator hears that it is done, though it is none itself afterwards.
	if _, err := sluicev1.NewClusterServiceClient(operator).RemoveNode(t.Context(), &sluicev1.RemoveNodeRequest{Node: "n2"}); err != nil {
		t.Fatal(err)
	}
	refused(t, getStatus(t.Context(), operator), trust.WrongCluster, codes.PermissionDenied)
	refused(t, getStatus(t.Context(), removed), trust.WrongCluster, codes.PermissionDenied)
	for err == nil { // what was under way arrives; nothing of after
		var e *sluicev1.WatchEventsResponse
		if e, err = events.Recv(); err == nil && e.GetEvent().GetKind() == string(ServiceCreated) {
			t.Error("the removed node hears of a service")
		}
		if e.GetEvent().GetKind() == string(NodeLeft) {
			a.create("web")
		}
	}
	if code := grpcstatus.Code(err); code != codes.PermissionDenied && code != codes.FailedPrecondition {
		t.Errorf("the stream ended with %v", err)
	}
	again := a.remoteFor(creds)
	if err := getStatus(t.Context(), again); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("a new connection of the removed node: %v", err)
	}
	if err := getStatus(t.Context(), a.remoteFor(a.credsFor(trust.RoleViewer))); err != nil {
		t.Errorf("a new login: %v", err)
	}
}

// Outside a cluster there is nobody whom a node could know.
func TestRemoteOutsideACluster(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	creds := a.credsFor(trust.RoleViewer)
	conn := a.remoteFor(creds)
	if err := getStatus(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, err := a.clusters.Leave(t.Context(), &sluicev1.LeaveRequest{}); err != nil {
		t.Fatal(err)
	}
	refused(t, getStatus(t.Context(), conn), NoCluster, codes.FailedPrecondition)
	if err := getStatus(t.Context(), a.remoteFor(creds)); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("a new connection: %v", err)
	}
}

// A certificate that ends counts no more, on the connection that is open either.
func TestCertificateEndsWhileConnected(t *testing.T) {
	a := newStoppedAgent(t, 1)
	a.cfg.API = netip.MustParseAddrPort(nodeAddr(1) + ":7957")
	a.start()
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	conn := a.remoteFor(a.credsFor(trust.RoleOperator))
	if err := getStatus(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	a.ahead.Store(int64(trust.ClientLifetime + trust.Tolerance + time.Hour))
	refused(t, getStatus(t.Context(), conn), trust.CertExpired, codes.Unauthenticated)
}

// Strangers that say nothing keep nobody out, those that are there nor those that come.
func TestStrangersKeepNobodyOut(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	creds := a.credsFor(trust.RoleViewer)
	var worst time.Duration
	for i := range 2000 {
		conn, err := net.Dial("tcp", a.cfg.API.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%100 != 99 {
			continue
		}
		began := time.Now()
		if err := getStatus(t.Context(), a.remoteFor(creds)); err != nil {
			t.Fatalf("after %d strangers: %v", i+1, err)
		}
		worst = max(worst, time.Since(began))
	}
	if worst > 2*time.Second {
		t.Errorf("a call took %s", worst)
	}
	t.Logf("answered after %s at most", worst.Round(time.Millisecond))
}
