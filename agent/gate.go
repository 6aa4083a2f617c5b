package agent

import (
	"context"
	"crypto/tls"
	"sync"

	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The limits of calls over TCP that are under way. A call lasts until its answer was taken, so
// they bound what answers that nobody reads may hold. A token admits many, so viewers together get
// but a part: whoever has one for viewers keeps no operator out.
const (
	callsOfOne     = 64
	callsOfViewers = 256
	callsOfAll     = 512
)

// gate lets calls over TCP through, each judged anew: who calls is a member of its role at this
// moment, however old the connection is. Safe for concurrent use.
type gate struct {
	cluster *cluster
	least   map[string]trust.Role
	turns   turns

	mu      sync.Mutex
	calls   map[trust.PublicKey]int
	viewers int
	all     int
}

func newGate(c *cluster) *gate {
	return &gate{cluster: c, least: leastRoles(), turns: newTurns(), calls: map[trust.PublicKey]int{}}
}

// session is what a connection over TCP proved.
type session struct{ state tls.ConnectionState }

// AuthType is for credentials.AuthInfo.
func (session) AuthType() string { return "sluice" }

// sessionOf is what the connection of a call over TCP proved.
func sessionOf(ctx context.Context) (tls.ConnectionState, error) {
	p, _ := grpcpeer.FromContext(ctx)
	if p == nil {
		return tls.ConnectionState{}, mesh.Refuse(NoCertificate, "connect by TLS", "the call came by no connection")
	}
	s, ok := p.AuthInfo.(session)
	if !ok {
		return tls.ConnectionState{}, mesh.Refuse(NoCertificate, "connect by TLS", "the connection has no certificate")
	}
	return s.state, nil
}

// callerKey is under which a call's context holds who calls.
type callerKey struct{}

// callerOf is who calls; false on the unix socket, where everything is allowed.
func callerOf(ctx context.Context) (trust.Identity, bool) {
	id, ok := ctx.Value(callerKey{}).(trust.Identity)
	return id, ok
}

// judge says who is at the other end of a call, and refuses who may not make it.
func (g *gate) judge(ctx context.Context, method string) (trust.Identity, error) {
	state, err := sessionOf(ctx)
	if err != nil {
		return trust.Identity{}, err
	}
	id, err := g.cluster.identify(state)
	if err != nil {
		return id, err
	}
	least, known := g.least[method]
	if !known {
		return id, mesh.Refuse(NotAllowed, "run it on the node itself", "%.100q is not for TCP", method)
	}
	if !id.Role.May(least) {
		do := "ask an operator, or log in with a token of that role"
		if least == trust.RoleNode {
			do = "run it on the node itself"
		}
		return id, mesh.Refuse(NotAllowed, do, "%s may not: it takes the role %s", id, least)
	}
	return id, nil
}

// enter is judge, and counts the call until ctx ends, which is when its answer was taken.
func (g *gate) enter(ctx context.Context, method string) (trust.Identity, error) {
	id, err := g.judge(ctx, method)
	if err != nil {
		return id, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls[id.Key] >= callsOfOne || g.all >= callsOfAll || id.Role == trust.RoleViewer && g.viewers >= callsOfViewers {
		return id, mesh.Refuse(TooManyCalls, "wait until some have ended",
			"%s has %d calls under way, viewers together have %d and all have %d, and %d, %d and %d are allowed",
			id, g.calls[id.Key], g.viewers, g.all, callsOfOne, callsOfViewers, callsOfAll)
	}
	g.countLocked(id, 1)
	context.AfterFunc(ctx, func() { g.leave(id) })
	return id, nil
}

func (g *gate) leave(id trust.Identity) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.countLocked(id, -1)
}

func (g *gate) countLocked(id trust.Identity, calls int) {
	g.all += calls
	if id.Role == trust.RoleViewer {
		g.viewers += calls
	}
	if g.calls[id.Key] += calls; g.calls[id.Key] == 0 {
		delete(g.calls, id.Key)
	}
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if looksAtMachine(info.FullMethod) {
		done, err := g.turns.take(ctx, id.Role)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return next(context.WithValue(ctx, callerKey{}, id), req)
}

func (g *gate) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, by := stream.Context(), g.cluster.authority() // before the caller is judged by it, or a later one
	id, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, &judgedStream{
		ServerStream: stream, ctx: context.WithValue(ctx, callerKey{}, id), gate: g, method: info.FullMethod, id: id, by: by,
	})
}

// judgedStream judges its caller before each message: a stream may last longer than a
// membership.
type judgedStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // the interface asks for it
	gate   *gate
	method string
	id     trust.Identity   // who calls
	by     *trust.Authority // by whom that is known; nil: by none of now
}

// judge reads the certificate again, which takes a third of a millisecond, only where the answer
// could have become another one.
func (s *judgedStream) judge() error {
	c := s.gate.cluster
	if now := c.authority(); now == nil || now != s.by || c.now().After(s.id.NotAfter) {
		_, err := s.gate.judge(s.ctx, s.method)
		return err
	}
	return c.expelled.admit(s.id)
}

// Context is the call's.
func (s *judgedStream) Context() context.Context { return s.ctx }

// SendMsg sends nothing to who is no member any more.
func (s *judgedStream) SendMsg(m any) error {
	if err := s.judge(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg takes nothing from who is no member any more.
func (s *judgedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.judge()
}

// identify says who is at the other end of a connection, by what is believed at this moment.
func (c *cluster) identify(state tls.ConnectionState) (trust.Identity, error) {
	creds, _ := c.believed()
	if creds == nil {
		return trust.Identity{}, noCluster()
	}
	return creds.Peer(state)
}

// authority is the CA that is believed; nil outside a cluster.
func (c *cluster) authority() *trust.Authority {
	creds, _ := c.believed()
	if creds == nil {
		return nil
	}
	return creds.Authority()
}

// believed is what this node proves itself with and the membership that it is of; nil outside a cluster.
func (c *cluster) believed() (*trust.Credentials, *membership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != inside || c.creds == nil {
		return nil, nil
	}
	return c.creds, c.member
}
