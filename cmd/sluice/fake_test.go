package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// fakeAgent answers every call with what answers holds under the method's name,
// a message or an error, and keeps what it was asked.
type fakeAgent struct {
	host    string
	answers map[string]any

	mu    sync.Mutex
	asked []string // "Init {"pool":"10.0.0.0/8"}"
}

// startAgent serves on a socket of its own until the test ends.
func startAgent(t *testing.T, answers map[string]any) *fakeAgent {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeAgent{host: "unix://" + path, answers: answers}
	server := grpc.NewServer(grpc.UnaryInterceptor(f.intercept))
	sluicev1.RegisterClusterServiceServer(server, sluicev1.UnimplementedClusterServiceServer{})
	sluicev1.RegisterAccessServiceServer(server, sluicev1.UnimplementedAccessServiceServer{})
	sluicev1.RegisterTokenServiceServer(server, sluicev1.UnimplementedTokenServiceServer{})
	sluicev1.RegisterKeyServiceServer(server, sluicev1.UnimplementedKeyServiceServer{})
	sluicev1.RegisterNetworkServiceServer(server, sluicev1.UnimplementedNetworkServiceServer{})
	sluicev1.RegisterServiceServiceServer(server, sluicev1.UnimplementedServiceServiceServer{})
	sluicev1.RegisterEndpointServiceServer(server, sluicev1.UnimplementedEndpointServiceServer{})
	sluicev1.RegisterStatusServiceServer(server, sluicev1.UnimplementedStatusServiceServer{})
	sluicev1.RegisterEventServiceServer(server, fakeEvents{agent: f})
	sluicev1.RegisterDoctorServiceServer(server, sluicev1.UnimplementedDoctorServiceServer{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Error(err)
		}
	})
	return f
}

// intercept answers in place of the services.
func (f *fakeAgent) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	text, err := toJSON(req.(proto.Message))
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.asked = append(f.asked, method+" "+string(text))
	f.mu.Unlock()
	switch answer := f.answers[method].(type) {
	case error:
		return nil, answer
	case nil:
		return next(ctx, req)
	default:
		return answer, nil
	}
}

// questions are what was asked so far.
func (f *fakeAgent) questions() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// refusal is a "no" as an agent sends it.
func refusal(t *testing.T, code codes.Code, reason, why, do string) error {
	t.Helper()
	st, err := status.New(code, why).WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: "sluice", Metadata: map[string]string{"do": do},
	})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// result is what one command line did.
type result struct {
	status         int
	stdout, stderr string
}

// sluice runs one command line that asks f.
func (f *fakeAgent) sluice(t *testing.T, args ...string) result {
	t.Helper()
	return sluice(t, newApp(), append([]string{"--host", f.host}, args...)...)
}

// sluice runs one command line.
func sluice(t *testing.T, a *app, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := a.run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
	return result{status, stdout.String(), stderr.String()}
}

// checkForms compares a verb's request and its output in every form with golden
// files.
func checkForms(t *testing.T, answers map[string]any, args ...string) {
	t.Helper()
	f := startAgent(t, answers)
	for _, form := range []string{"table", "json", "yaml"} {
		t.Run(form, func(t *testing.T) {
			before := len(f.questions())
			got := f.sluice(t, append(slices.Clone(args), "-o", form)...)
			if got.status != 0 || got.stderr != "" {
				t.Errorf("exit status %d, stderr %q", got.status, got.stderr)
			}
			text := got.stdout
			if form == "table" {
				text = "$ sluice " + strings.Join(args, " ") + "\n" + got.stdout +
					"asks " + strings.Join(f.questions()[before:], "asks ")
			}
			golden.Equal(t, text)
		})
	}
}
