package trust

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// loopback is two ends of a TCP connection of this host.
func loopback(tb testing.TB) (client, server net.Conn) {
	tb.Helper()
	l := must[net.Listener](tb)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	client = must[net.Conn](tb)(net.Dial("tcp", l.Addr().String()))
	server = must[net.Conn](tb)(l.Accept())
	for _, c := range []net.Conn{client, server} {
		must[struct{}](tb)(struct{}{}, c.SetDeadline(time.Now().Add(20*time.Second)))
		tb.Cleanup(func() { c.Close() })
	}
	return client, server
}

// meet lets a client and a server shake hands and pass one byte back, and gives what
// either says. The client's own handshake may end before the server has judged it.
func meet(tb testing.TB, client, server *tls.Config) (s *tls.Conn, clientErr, serverErr error) {
	tb.Helper()
	a, b := loopback(tb)
	s = tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		done <- err
	}()
	c := tls.Client(a, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = io.ReadFull(c, make([]byte, 1))
	}
	if clientErr != nil {
		a.Close()
	}
	return s, clientErr, <-done
}

func TestWhoMayCall(t *testing.T) {
	a := testAuthority(t)
	foreign := testAuthority(t)
	for name, c := range map[string]struct {
		client *Credentials
		p      Protocol
		want   mesh.Reason // of the server
	}{
		"node syncs":         {member(t, a, 1), ProtocolSync, ""},
		"node asks":          {member(t, a, 1), ProtocolAPI, ""},
		"operator asks":      {guest(t, a, RoleOperator, 3), ProtocolAPI, ""},
		"viewer asks":        {guest(t, a, RoleViewer, 4), ProtocolAPI, ""},
		"operator syncs":     {guest(t, a, RoleOperator, 3), ProtocolSync, WrongRole},
		"viewer syncs":       {guest(t, a, RoleViewer, 4), ProtocolSync, WrongRole},
		"what is unheard of": {member(t, a, 1), "sluice-gossip/9", NoProtocol},
		"what is not here":   {member(t, a, 1), ProtocolJoin, NoProtocol},
		"of another cluster": {member(t, foreign, 1), ProtocolSync, WrongCluster},
	} {
		t.Run(name, func(t *testing.T) {
			server := member(t, a, 2)
			client := c.client.Client(c.p, "")
			if c.want == WrongCluster { // who would not even believe the server
				client.VerifyConnection = nil
			}
			s, clientErr, serverErr := meet(t, client, server.Server(ProtocolSync, ProtocolAPI))
			wantReason(t, serverErr, c.want)
			if (clientErr == nil) != (c.want == "") {
				t.Errorf("the client: %v", clientErr)
			}
			if c.want != "" {
				if RefusedByPeer(clientErr) != (c.want != NoProtocol) {
					t.Errorf("the client takes %v for something else", clientErr)
				}
				return
			}
			if got, err := server.Peer(s.ConnectionState()); err != nil || got.String() != c.client.Identity().String() {
				t.Errorf("the server takes it for %v, %v", got, err)
			}
			if got := s.ConnectionState(); got.NegotiatedProtocol != string(c.p) || got.Version != tls.VersionTLS13 {
				t.Errorf("negotiated %q, version %x", got.NegotiatedProtocol, got.Version)
			}
		})
	}
}

func TestWhoIsBelievedAsServer(t *testing.T) {
	a := testAuthority(t)
	client := member(t, a, 1)
	for name, c := range map[string]struct {
		server *Credentials
		node   mesh.NodeID
		want   mesh.Reason
	}{
		"any node":           {member(t, a, 2), "", ""},
		"the node":           {member(t, a, 2), testKey(2).ID(), ""},
		"another node":       {member(t, a, 3), testKey(2).ID(), WrongNode},
		"an operator":        {guest(t, a, RoleOperator, 3), "", WrongRole},
		"of another cluster": {member(t, testAuthority(t), 2), testKey(2).ID(), WrongCluster},
		"with its key alone": {member(t, must[*Authority](t)(a.Next(noon())), 2), testKey(2).ID(), WrongCluster},
	} {
		t.Run(name, func(t *testing.T) {
			_, err, _ := meet(t, client.Client(ProtocolSync, c.node), c.server.Server(ProtocolSync))
			wantReason(t, err, c.want)
		})
	}
}

// What a client leaves out or adds must not open a door.
func TestServerRefusesOddClients(t *testing.T) {
	a := testAuthority(t)
	server := member(t, a, 2).Server(ProtocolSync, ProtocolJoin, ProtocolAPI)
	for name, edit := range map[string]func(*tls.Config){
		"no certificate":        func(c *tls.Config) { c.Certificates = nil },
		"no protocol":           func(c *tls.Config) { c.NextProtos = nil },
		"two protocols":         func(c *tls.Config) { c.NextProtos = []string{string(ProtocolJoin), string(ProtocolSync)} },
		"TLS 1.2":               func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"a key of another node": func(c *tls.Config) { c.Certificates[0].PrivateKey = testKey(9).private },
		"a certificate of its own making": func(c *tls.Config) {
			sham := testAuthority(t)
			c.Certificates = []tls.Certificate{member(t, sham, 1).current.Load().chain}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := member(t, a, 1).Client(ProtocolSync, "")
			edit(cfg)
			if _, _, err := meet(t, cfg, server); err == nil {
				t.Error("the server let it in")
			}
		})
	}
}

// A server that says nothing of what it speaks could be anything.
func TestClientWantsTheProtocol(t *testing.T) {
	a := testAuthority(t)
	server := member(t, a, 2).server(ProtocolSync)
	server.NextProtos = nil
	_, err, _ := meet(t, member(t, a, 1).Client(ProtocolSync, ""), server)
	wantReason(t, err, NoProtocol)
}

// From the moment of a removal on the old certificates are worth nothing, also on a
// connection that is open and in a listener that was made before.
func TestRemovalEndsTrust(t *testing.T) {
	a := testAuthority(t)
	server, removed, stays := member(t, a, 1), member(t, a, 2), member(t, a, 3)
	accept := server.Server(ProtocolSync)
	s, err, _ := meet(t, removed.Client(ProtocolSync, ""), accept)
	wantReason(t, err, "")
	if _, err := server.Peer(s.ConnectionState()); err != nil {
		t.Fatal(err)
	}
	next := must[*Authority](t)(a.Next(noon()))
	for _, c := range []*Credentials{server, stays} {
		must[bool](t)(c.Replace(next))
	}
	_, err = server.Peer(s.ConnectionState())
	wantReason(t, err, WrongCluster)
	cfg := removed.Client(ProtocolSync, "")
	cfg.VerifyConnection = nil
	_, clientErr, serverErr := meet(t, cfg, accept)
	wantReason(t, serverErr, WrongCluster)
	if !RefusedByPeer(clientErr) {
		t.Errorf("the removed node sees %v", clientErr)
	}
	// The key of the old CA admits nobody, not even with a new name.
	_, _, serverErr = meet(t, member(t, a, 9).Client(ProtocolSync, ""), accept)
	if serverErr == nil {
		t.Error("a removed node's CA admits")
	}
	_, _, serverErr = meet(t, stays.Client(ProtocolSync, server.Identity().Node), accept)
	wantReason(t, serverErr, "")
}

func TestAdmitIsAsked(t *testing.T) {
	a := testAuthority(t)
	gone := errors.New("removed a moment ago")
	server := must[*Credentials](t)(NewCredentials(CredentialsConfig{Key: testKey(1), Authority: a, Now: at(0), Admit: func(id Identity) error {
		if id.Node == testKey(2).ID() {
			return gone
		}
		return nil
	}}))
	_, _, err := meet(t, member(t, a, 2).Client(ProtocolSync, ""), server.Server(ProtocolSync))
	if !errors.Is(err, gone) {
		t.Errorf("as server: %v", err)
	}
	_, err, _ = meet(t, server.Client(ProtocolSync, ""), member(t, a, 2).Server(ProtocolSync))
	if !errors.Is(err, gone) {
		t.Errorf("as client: %v", err)
	}
	if _, err := server.Identify(member(t, a, 2).Certificate()); !errors.Is(err, gone) {
		t.Errorf("of a record: %v", err)
	}
	_, _, err = meet(t, member(t, a, 3).Client(ProtocolSync, ""), server.Server(ProtocolSync))
	wantReason(t, err, "")
}

func TestRefusedByPeer(t *testing.T) {
	for _, err := range []error{nil, io.EOF, &net.OpError{Op: "read", Err: io.EOF}, &net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}} {
		if RefusedByPeer(err) {
			t.Errorf("%v is taken for a refusal", err)
		}
	}
}
