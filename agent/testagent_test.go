package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// testAgent is one running agent and a client of it.
type testAgent struct {
	tb        testing.TB
	cfg       Config
	machine   *fakeMachine
	kernel    Machine // what the agent is given: machine, where it is nil
	processes *processes
	ahead     atomic.Int64 // by how much its clock is before the real one, in nanoseconds
	boss      *supervisor  // nil: none
	cancel    context.CancelFunc
	done      chan error

	conn      *grpc.ClientConn
	clusters  sluicev1.ClusterServiceClient
	networks  sluicev1.NetworkServiceClient
	services  sluicev1.ServiceServiceClient
	endpoints sluicev1.EndpointServiceClient
	states    sluicev1.StatusServiceClient
	tokens    sluicev1.TokenServiceClient
}

func newTestAgent(tb testing.TB, n int) *testAgent {
	tb.Helper()
	a := newStoppedAgent(tb, n)
	a.start()
	return a
}

// newStoppedAgent is an agent that is to be started.
func newStoppedAgent(tb testing.TB, n int) *testAgent {
	tb.Helper()
	dir, err := os.MkdirTemp("", "sl") //nolint:usetesting // short: a socket's path has at most 107 bytes
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	a := agentIn(tb, n, dir)
	tb.Cleanup(func() {
		if a.cancel != nil {
			a.stop()
		}
	})
	return a
}

// agentIn is an agent that is not started and has all its files in dir.
func agentIn(tb testing.TB, n int, dir string) *testAgent {
	tb.Helper()
	return &testAgent{
		tb: tb, machine: newFakeMachine(tb, nodeAddr(n)), processes: &processes{},
		cfg: Config{
			DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), Name: fmt.Sprintf("n%d", n),
			Log: slog.New(slog.NewTextHandler(tb.Output(), nil)), Version: "test",
		},
	}
}

func (a *testAgent) system() system {
	return system{
		missing: func() []string { return nil },
		hasIPVS: func() bool { return true },
		open: func(string) (Machine, error) {
			if a.kernel != nil {
				return a.kernel, nil
			}
			return a.machine, nil
		},
		watch: a.processes.watch,
		now:   func() time.Time { return time.Now().Add(time.Duration(a.ahead.Load())) },
		resolv: resolvFiles{
			host: filepath.Join(a.cfg.DataDir, "resolv.conf"), named: filepath.Join(a.cfg.DataDir, "named"), etc: filepath.Join(a.cfg.DataDir, "etc"),
		},
		inspect: func(q kernel.Inspection) doctor.Facts { return someFacts(q) },

		supervisor: func() (*supervisor, error) { return a.boss, nil },
	}
}

func (a *testAgent) start() {
	a.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan error, 1)
	go func() { a.done <- run(ctx, a.cfg, a.system()) }()
	socket := filepath.Join(a.cfg.RunDir, socketName)
	for deadline := time.Now().Add(5 * time.Second); !answers(socket); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-a.done:
			a.cancel = nil // there is nothing left to stop
			a.tb.Fatalf("agent %s ended: %v", a.cfg.Name, err)
		default:
		}
		if time.Now().After(deadline) {
			a.tb.Fatalf("agent %s does not answer", a.cfg.Name)
		}
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		a.tb.Fatal(err)
	}
	a.conn = conn
	a.clusters, a.networks = sluicev1.NewClusterServiceClient(conn), sluicev1.NewNetworkServiceClient(conn)
	a.services, a.endpoints = sluicev1.NewServiceServiceClient(conn), sluicev1.NewEndpointServiceClient(conn)
	a.states, a.tokens = sluicev1.NewStatusServiceClient(conn), sluicev1.NewTokenServiceClient(conn)
}

func (a *testAgent) stop() {
	a.tb.Helper()
	a.conn.Close()
	a.cancel()
	if err := <-a.done; err != nil {
		a.tb.Errorf("agent %s ended with %v", a.cfg.Name, err)
	}
	a.cancel = nil
}

// netns makes a file that the fake machine takes for a namespace.
func (a *testAgent) netns(name string) string {
	a.tb.Helper()
	path := filepath.Join(a.cfg.RunDir, name)
	if err := os.WriteFile(path, []byte("netns"), 0o600); err != nil {
		a.tb.Fatal(err)
	}
	return path
}

// attach makes an endpoint of web.
func (a *testAgent) attach(name string) *sluicev1.Endpoint {
	a.tb.Helper()
	return a.attachTo("web", name)
}

// attachTo makes an endpoint of a service.
func (a *testAgent) attachTo(service, name string) *sluicev1.Endpoint {
	a.tb.Helper()
	resp, err := a.endpoints.AttachEndpoint(a.tb.Context(), &sluicev1.AttachEndpointRequest{
		Service: service, Name: name, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns-" + name)},
	})
	if err != nil {
		a.tb.Fatal(err)
	}
	return resp.GetEndpoint()
}

func (a *testAgent) create(name string, publish ...string) *sluicev1.Service {
	a.tb.Helper()
	resp, err := a.services.CreateService(a.tb.Context(), &sluicev1.CreateServiceRequest{Name: name, Publish: publish})
	if err != nil {
		a.tb.Fatal(err)
	}
	return resp.GetService()
}

func (a *testAgent) status() *sluicev1.GetStatusResponse {
	a.tb.Helper()
	resp, err := a.states.GetStatus(a.tb.Context(), &sluicev1.GetStatusRequest{})
	if err != nil {
		a.tb.Fatal(err)
	}
	return resp
}

func (a *testAgent) endpointNames() string {
	a.tb.Helper()
	resp, err := a.endpoints.ListEndpoints(a.tb.Context(), &sluicev1.ListEndpointsRequest{})
	if err != nil {
		a.tb.Fatal(err)
	}
	var names []string
	for _, e := range resp.GetEndpoints() {
		names = append(names, e.GetName()+"@"+e.GetNode())
	}
	return strings.Join(names, " ")
}

// eventually waits for what other nodes must first hear.
func eventually(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(15 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

// newTestCluster is n agents in one cluster.
func newTestCluster(tb testing.TB, n int) ([]*testAgent, string) {
	tb.Helper()
	var agents []*testAgent
	var token, address string
	for i := range n {
		a := newTestAgent(tb, i+1)
		agents = append(agents, a)
		if i == 0 {
			resp, err := a.clusters.Init(tb.Context(), &sluicev1.InitRequest{})
			if err != nil {
				tb.Fatal(err)
			}
			token, address = resp.GetToken(), resp.GetJoinAddress()
			continue
		}
		resp, err := a.clusters.Join(tb.Context(), &sluicev1.JoinRequest{Address: address, Token: token})
		if err != nil {
			tb.Fatal(err)
		}
		if resp.GetNodes() < 2 {
			tb.Fatalf("%s joined and knows %d nodes", a.cfg.Name, resp.GetNodes())
		}
	}
	return agents, token
}

// refused checks the form that every refusal has on the wire.
func refused(t *testing.T, err error, reason mesh.Reason, code codes.Code) {
	t.Helper()
	s := grpcstatus.Convert(err)
	if s.Code() != code || s.Message() == "" {
		t.Fatalf("got %v, want code %s", err, code)
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.GetReason() != string(reason) || info.GetDomain() != ErrorDomain || info.GetMetadata()[ErrorDo] == "" {
				t.Fatalf("got %v with %v, want reason %s", err, info, reason)
			}
			return
		}
	}
	t.Fatalf("%v has no reason", err)
}
