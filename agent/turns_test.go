package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/sluice-mesh/sluice/internal/trust"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// However many viewers look at the machine, one of them at a time stands in the way of a round, and
// an operator need not wait for them.
func TestViewersTakeTurns(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	c := newKeyed(1, first.Authority).cluster(t, first, nil)
	if _, err := c.believe(c.member); err != nil {
		t.Fatal(err)
	}
	g := newGate(c)
	calls := func(role trust.Role, handler grpc.UnaryHandler) error {
		cert := must(x509.ParseCertificate(must(first.Authority.Issue(role, "alice", trust.NewKey().Public(), time.Now()))))
		ctx := grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{AuthInfo: session{tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}}})
		_, err := g.unary(ctx, nil, &grpc.UnaryServerInfo{FullMethod: sluicev1.StatusService_Explain_FullMethodName}, handler)
		return err
	}
	var under, most atomic.Int64
	var all sync.WaitGroup
	inside, release := make(chan struct{}, 64), make(chan struct{})
	for range cap(inside) {
		all.Go(func() {
			err := calls(trust.RoleViewer, func(context.Context, any) (any, error) {
				most.Store(max(most.Load(), under.Add(1)))
				inside <- struct{}{}
				<-release
				under.Add(-1)
				return nil, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	<-inside
	if err := calls(trust.RoleOperator, func(context.Context, any) (any, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	close(release)
	all.Wait()
	if most.Load() != 1 {
		t.Errorf("%d looked at a time", most.Load())
	}
}
