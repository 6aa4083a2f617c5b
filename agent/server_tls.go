package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The limits of one connection to the API over TCP.
const (
	requestMost   = 1 << 20         // bytes of a request; an answer may have more
	headersMost   = 16 << 10        // bytes
	streamsOfConn = 32              // calls under way
	greetingLimit = 5 * time.Second // until TLS and the beginning of HTTP/2 are over
	idleMost      = 10 * time.Minute
)

// remoteServer serves the API over TCP to who has a certificate.
func (a *api) remoteServer(log *slog.Logger) *grpc.Server {
	g := newGate(a.cluster)
	s := grpc.NewServer(
		grpc.Creds(&apiTLS{cluster: a.cluster, log: log, strangers: newFewLines(log)}),
		grpc.ChainUnaryInterceptor(survive(log), refuse, g.unary),
		grpc.ChainStreamInterceptor(surviveStream(log), refuseStream, g.stream),
		grpc.MaxRecvMsgSize(requestMost), grpc.MaxHeaderListSize(headersMost), grpc.MaxConcurrentStreams(streamsOfConn),
		grpc.ConnectionTimeout(greetingLimit),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleMost, Time: time.Minute, Timeout: 20 * time.Second}),
	)
	a.register(s)
	return s
}

// apiTLS is the handshake with who calls over TCP. It is our own, and not gRPC's, because the
// certificate and the CA are those of the moment of each connection, strangers are counted until
// it ends, and who has but a token is served on the same port.
type apiTLS struct {
	cluster   *cluster
	log       *slog.Logger
	strangers *slog.Logger // the same, for what anybody can bring about
}

// ServerHandshake says who calls. Its time is bounded by a deadline on raw, which gRPC sets.
func (t *apiTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	v, ok := raw.(*visitor)
	if !ok {
		return nil, nil, errors.New("take a caller: the connection did not come by the doorkeeper")
	}
	creds, m := t.cluster.believed()
	if creds == nil {
		return nil, nil, noCluster()
	}
	conn := tls.Server(v, v.keeper.greeting(v, creds.Server(trust.ProtocolAPI, trust.ProtocolJoin)))
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return nil, nil, err
	}
	if trust.Protocol(conn.ConnectionState().NegotiatedProtocol) == trust.ProtocolJoin {
		t.admit(conn, m)
		return nil, nil, credentials.ErrConnDispatched
	}
	id, err := creds.Peer(conn.ConnectionState())
	if err != nil {
		return nil, nil, err
	}
	if err := v.keeper.recognize(v, id, conn.ConnectionState()); err != nil {
		t.strangers.Warn("a caller of the API was not let in", "caller", id, "from", v.RemoteAddr(), "err", err)
		return nil, nil, err
	}
	return conn, session{conn.ConnectionState()}, nil
}

// admit serves an operator or viewer that logs in, and ends the connection.
func (t *apiTLS) admit(conn *tls.Conn, m *membership) {
	defer conn.Close()
	door := t.cluster.door(m)
	door.Admit = func(id trust.Identity) error {
		if id.Role == trust.RoleNode {
			return mesh.Refuse(trust.WrongRole, "give 'sluice join' the address and port that 'sluice token create' printed", "a node joins by gossip's port, and this is the API's")
		}
		return t.cluster.expelled.admit(id)
	}
	door.Return = nil
	id, err := door.Serve(context.Background(), conn)
	if err != nil {
		t.strangers.Warn("a login was refused", "from", conn.RemoteAddr(), "err", err)
		return
	}
	t.log.Info("somebody logged in", "caller", id, "from", conn.RemoteAddr())
}

// ClientHandshake is not what a server does.
func (*apiTLS) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a server does not call")
}

// Info is for credentials.TransportCredentials.
func (*apiTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone is for credentials.TransportCredentials: there is nothing to copy.
func (t *apiTLS) Clone() credentials.TransportCredentials { return t }

// OverrideServerName is for credentials.TransportCredentials, and of no use to a server.
func (*apiTLS) OverrideServerName(string) error { return nil }

// listenRemote is where the API is called over TCP.
func listenRemote(at netip.AddrPort) (net.Listener, error) {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, mesh.Refuse(BadConfig, "give --api an address of this host and a port that is free, or start without it", "the API cannot be called at %s: %v", at, err)
	}
	return l, nil
}

// serveRemote serves the API over TCP until ctx ends.
func (a *api) serveRemote(ctx context.Context, l net.Listener, log *slog.Logger) error {
	keeper := newDoorkeeper(l)
	return together(ctx, func(ctx context.Context) error {
		return serve(ctx, a.remoteServer(log), keeper, stopLimit)
	}, func(ctx context.Context) error {
		return keeper.watch(ctx, func(state tls.ConnectionState) error { _, err := a.cluster.identify(state); return err })
	})
}
