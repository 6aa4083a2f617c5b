package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// api is what the methods of all services work on. A method translates,
// validates, writes and waits; what is refused comes back as a mesh.Refusal and
// leaves by refuse.
type api struct {
	config    Config
	cluster   *cluster
	loop      *loop
	status    *status
	endpoints *endpoints
	events    *events
	watched   *watched
	agreement *agreement
	inspect   func(kernel.Inspection) doctor.Facts
}

// applyLimit is how long a call waits until the kernel follows its write. The
// write stands where it ends first.
const applyLimit = 30 * time.Second

// write is update, and the wait until this node's kernel follows.
func (a *api) write(ctx context.Context, decide func(*mesh.Snapshot) ([]mesh.Record, error)) error {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	rev, err := a.cluster.update(decide)
	if err != nil {
		return err
	}
	return a.loop.wait(ctx, rev)
}

// member returns the newest snapshot of the cluster that the node is in.
func (a *api) member() (*mesh.Snapshot, error) {
	snap := a.cluster.snapshot()
	if snap.Node(a.cluster.own.ID) == nil {
		return nil, noCluster()
	}
	return snap, nil
}

// open makes the socket, and the port where there is to be one, and returns what answers there
// until its context ends.
func (a *api) open() (func(context.Context) error, error) {
	log := a.config.Log
	listener, err := listen(a.config.Socket, socketGroup)
	if err != nil {
		return nil, err
	}
	local := func(ctx context.Context) error { return serve(ctx, a.server(log), listener, stopLimit) }
	if !a.config.API.IsValid() {
		return local, nil
	}
	remote, err := listenRemote(a.config.API)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return func(ctx context.Context) error {
		return together(ctx, local, func(ctx context.Context) error { return a.serveRemote(ctx, remote, log) })
	}, nil
}

// server serves on the unix socket, where everything is allowed.
func (a *api) server(log *slog.Logger) *grpc.Server {
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(survive(log), refuse), grpc.ChainStreamInterceptor(surviveStream(log), refuseStream))
	a.register(s)
	return s
}

// register gives a server all services.
func (a *api) register(s *grpc.Server) {
	sluicev1.RegisterClusterServiceServer(s, &clusterServer{api: a})
	sluicev1.RegisterAccessServiceServer(s, &accessServer{api: a})
	sluicev1.RegisterTokenServiceServer(s, &tokenServer{api: a})
	sluicev1.RegisterKeyServiceServer(s, &keyServer{api: a})
	sluicev1.RegisterNetworkServiceServer(s, &networkServer{api: a})
	sluicev1.RegisterServiceServiceServer(s, &serviceServer{api: a})
	sluicev1.RegisterEndpointServiceServer(s, &endpointServer{api: a})
	sluicev1.RegisterStatusServiceServer(s, &statusServer{api: a})
	sluicev1.RegisterEventServiceServer(s, &eventServer{api: a})
	sluicev1.RegisterWatchServiceServer(s, &watchServer{api: a})
	sluicev1.RegisterDoctorServiceServer(s, &doctorServer{api: a})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
}

// stopLimit is how long calls that are under way may go on when the agent ends.
const stopLimit = 5 * time.Second

// serve answers calls until ctx ends, and those that are under way for limit longer. One that
// hangs in the kernel then cannot be ended and is left behind.
func serve(ctx context.Context, s *grpc.Server, l net.Listener, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	graceful := make(chan struct{})
	go func() { defer close(graceful); s.GracefulStop() }() // waits for the calls, whatever Stop does
	select {
	case <-graceful:
	case <-time.After(limit):
		s.Stop()
	}
	// Serve says ErrServerStopped where the end came before it began: that is no fault.
	if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// answers tells whether an agent listens on the socket.
func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func refuseSecondAgent(socket string) error {
	if answers(socket) {
		return mesh.Refuse(RunDirInUse, "stop it or give --run-dir", "another agent answers on %s", socket)
	}
	return nil
}

// listen makes the API's socket, for root and a group. It gets its owner and its mode
// before its name, so that there is no moment in which others may connect.
func listen(socket, group string) (net.Listener, error) {
	making := socket + socketMaking
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false) // the name it would remove is the temporary one
	err = errors.Join(giveTo(group, making), os.Chmod(making, 0o660))
	if err == nil {
		err = os.Rename(making, socket)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make socket %s: %w", socket, err), l.Close())
	}
	return l, nil
}

// giveTo gives a file to a group. Where there is no such group, or the agent may not give to it
// (root of a user namespace), the file stays root's alone.
func giveTo(group, path string) error {
	known, err := user.LookupGroup(group)
	if err != nil {
		return nil
	}
	gid, err := strconv.Atoi(known.Gid)
	if err != nil {
		return fmt.Errorf("read ID of group %s: %w", group, err)
	}
	if err := os.Chown(path, -1, gid); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
