package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const defaultHost = "unix:///run/sluice/sluice.sock"

// answerLimit is how many bytes an answer may have: the plan or the lists of 10,000 services
// are longer than gRPC's usual 4 MiB.
const answerLimit = 256 << 20

// call is one question to the agent.
type call struct {
	app   *app
	what  string        // what is attempted, for the message when it fails
	limit time.Duration // until the answer must be there
}

// to makes a call.
func (a *app) to(what string, args ...any) call {
	return call{app: a, what: fmt.Sprintf(what, args...), limit: a.patience}
}

// slow makes a call that waits for other nodes or for the kernel.
func (a *app) slow(what string, args ...any) call {
	c := a.to(what, args...)
	c.limit *= 2
	return c
}

// ask sends req to the agent and waits for the answer. Every error is a failure,
// except one about a --host that cannot be read.
func ask[C, Q, R any](ctx context.Context, c call, client func(grpc.ClientConnInterface) C,
	method func(C, context.Context, Q, ...grpc.CallOption) (R, error), req Q,
) (R, error) {
	var none R
	conn, d, err := c.connect()
	if err != nil {
		return none, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, c.limit)
	defer cancel()
	resp, err := method(client(conn), ctx, req)
	if err != nil {
		return none, c.explain(err, d)
	}
	return resp, nil
}

// connect makes the connection that a call goes over, without waiting for it.
func (c call) connect() (*grpc.ClientConn, *dialer, error) {
	path, err := c.app.socket(c.what)
	if err != nil {
		return nil, nil, err
	}
	d := &dialer{path: path}
	conn, err := grpc.NewClient("passthrough:///sluice",
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(d.dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerLimit)),
		// An agent that is stuck accepts and says nothing: the call's own limit ends
		// the wait, and its message is the right one.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 2 * c.limit}))
	if err != nil {
		return nil, nil, &failure{what: c.what, why: err.Error(), do: "give another --host"}
	}
	return conn, d, nil
}

// socket is the path of the agent's socket.
func (a *app) socket(what string) (string, error) {
	host := a.host
	if host == "" {
		host = os.Getenv("SLUICE_HOST")
	}
	if host == "" {
		host = defaultHost
	}
	path, ok := strings.CutPrefix(host, "unix://")
	switch {
	case ok && filepath.IsAbs(path):
		return path, nil
	case strings.HasPrefix(host, "tcp://"):
		return "", &failure{
			what: what, why: fmt.Sprintf("%s: this version has no API over TCP", host),
			do: "run the command on that node, with --host unix:///PATH",
		}
	default:
		return "", fmt.Errorf("host %q is not unix:///PATH", host)
	}
}

// dialer connects to a unix socket and keeps why it could not: gRPC passes that
// on only as a sentence.
type dialer struct {
	path string
	mu   sync.Mutex
	err  error
}

// dial is called by gRPC, from a goroutine of its own.
func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", d.path)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return conn, err
}

// failed is why the last attempt to connect failed, or nil.
func (d *dialer) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// explain turns what gRPC returned into what a person can act on. The agent's
// own refusals say it themselves; the rest is about reaching the agent.
func (c call) explain(err error, d *dialer) *failure {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "sluice" {
			return &failure{
				what: c.what, why: st.Message(), do: info.GetMetadata()["do"],
				gone: info.GetReason() == "NotFound",
			}
		}
	}
	switch st.Code() {
	case codes.Unavailable:
		return c.unreachable(d)
	case codes.DeadlineExceeded:
		return &failure{
			what: c.what, why: fmt.Sprintf("the agent did not answer within %s", c.limit),
			do: "look at its log for what it waits for; it may still do what was asked",
		}
	case codes.Canceled:
		return &failure{what: c.what, why: "interrupted", do: "the agent may have done it all the same, see \"sluice status\""}
	case codes.Unimplemented:
		return &failure{what: c.what, why: "the agent is of another version and does not know this call", do: "start it again from this program"}
	default:
		return &failure{what: c.what, why: st.Message(), do: "look at the agent's log"}
	}
}

// unreachable says why there was no connection, or no answer over it.
func (c call) unreachable(d *dialer) *failure {
	host := "unix://" + d.path
	err := d.failed()
	switch {
	case err == nil:
		return &failure{
			what: c.what, why: fmt.Sprintf("the agent at %s went away before it answered", host),
			do: "look at its log for why it ended",
		}
	case errors.Is(err, fs.ErrPermission):
		return &failure{
			cause: err, what: c.what, why: fmt.Sprintf("no permission to speak to the agent at %s", host),
			do: "run this as root, or as a member of group sluice, which must exist when the agent starts",
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return &failure{
			cause: err, what: c.what, why: "no agent answers at " + host,
			do: "start it with \"sluice agent\", or name another with --host",
		}
	default:
		return &failure{
			cause: err, what: c.what, why: fmt.Sprintf("no agent answers at %s: %v", host, err),
			do: "name its socket with --host",
		}
	}
}
