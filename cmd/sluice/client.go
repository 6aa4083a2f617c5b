package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/internal/login"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
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
	c.renew(ctx, conn, d.to)
	return resp, nil
}

// connect makes the connection that a call goes over, without waiting for it.
func (c call) connect() (*grpc.ClientConn, *dialer, error) {
	to, err := c.app.target(c.what)
	if err != nil {
		return nil, nil, err
	}
	d := &dialer{to: to}
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
	host := d.to.String()
	err := d.failed()
	if d.to.path == "" {
		return c.unreachableThere(host, err)
	}
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

// unreachableThere is unreachable over TCP.
func (c call) unreachableThere(host string, err error) *failure {
	const do = "check the address and port, and that the agent there runs with --api"
	switch reason := mesh.ReasonOf(err); {
	case err == nil:
		return &failure{
			what: c.what, why: fmt.Sprintf("the agent at %s went away before it answered", host),
			do: "try again; look at its log if it stays so",
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &failure{cause: err, what: c.what, why: "no agent answers at " + host, do: do}
	case reason == trust.WrongCluster:
		return &failure{
			cause: err, what: c.what, do: login.Again,
			why: fmt.Sprintf("%s and this login do not know each other: the node is of another cluster, or a node was removed since, which ends all logins", host),
		}
	case reason != "":
		return failureOf(c.what, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return &failure{
			cause: err, what: c.what, why: fmt.Sprintf("the agent at %s ended the connection", host),
			do: "see there whether its node is in a cluster, and in its log whether there are too many connections",
		}
	default:
		return &failure{cause: err, what: c.what, why: fmt.Sprintf("no agent answers at %s: %v", host, err), do: do}
	}
}
