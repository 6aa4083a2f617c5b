package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
)

// While the machine hangs in one call, the others give up when their callers do, and the loop
// when the agent ends.
func TestHangingMachine(t *testing.T) {
	c, _ := member(t, scene.New(t, 1), &clock{at: time.Unix(1000, 0)})
	l := newLoop(c, newFakeMachine(t, nodeAddr(1)), newStatus(time.Now, nil), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	inside, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	go func() {
		done <- l.withMachine(ctx, func(Machine) error { close(inside); <-release; return nil })
	}()
	<-inside
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := l.withMachine(short, func(Machine) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second call: %v", err)
	}
	if _, err := l.desired(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("desired: %v", err)
	}
	go func() { done <- l.run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the loop: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the first call: %v", err)
	}
	if err := l.withMachine(t.Context(), func(Machine) error { return nil }); err != nil {
		t.Errorf("a call afterwards: %v", err)
	}
}

// A call that hangs does not keep the agent from ending.
func TestServeEndsDespiteACall(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	s := grpc.NewServer(grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		close(inside)
		<-release
		return &grpc_health_v1.HealthCheckResponse{}, nil
	}))
	grpc_health_v1.RegisterHealthServer(s, grpc_health_v1.UnimplementedHealthServer{})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	served, called := make(chan error, 1), make(chan error, 1)
	go func() { served <- serve(ctx, s, l, 20*time.Millisecond) }()
	go func() {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		called <- err
	}()
	<-inside
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the server waits for the call")
	}
	close(release)
	<-called
}
