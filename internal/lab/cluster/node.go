package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-mesh/sluice/internal/lab/space"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// Node is one machine of the cluster: a namespace and the agent in it.
type Node struct {
	Host
	Dir     string                  // holds data/ and run/
	Ingress *space.Space            // ingress-sbox; after Populate
	Network map[string]*space.Space // the sandboxes of networks that have endpoints here, by network; after Populate

	sluice   string // path of the program
	balancer string
	firewall string
	lock     bool
	byRoute  bool
	underlay Family
	agent    *process
	unit     string // the systemd service that is the agent in the place of a process; "" for none
}

// Result is what one call of the program printed, and its exit status.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// DataDir and RunDir are the agent's.
func (n *Node) DataDir() string {
	if n.unit != "" {
		return "/var/lib/sluice"
	}
	return filepath.Join(n.Dir, "data")
}

// RunDir is where the agent's socket and sandboxes are.
func (n *Node) RunDir() string {
	if n.unit != "" {
		return "/run/sluice"
	}
	return filepath.Join(n.Dir, "run")
}

// Socket is where the agent answers, as --host takes it.
func (n *Node) Socket() string { return "unix://" + filepath.Join(n.RunDir(), "sluice.sock") }

// AgentArgs are the arguments that the node's agent is started with.
func (n *Node) AgentArgs() []string {
	args := []string{
		"agent", "--data-dir", n.DataDir(), "--run-dir", n.RunDir(),
		"--name", n.Name, "--balancer", cmp.Or(n.balancer, "auto"), "--firewall", cmp.Or(n.firewall, "open"),
	}
	if n.lock {
		args = append(args, "--lock")
	}
	if n.byRoute {
		return args
	}
	return append(args, "--advertise", n.Addr(n.underlay).String())
}

func (n *Node) startAgent(ctx context.Context) error {
	if n.unit != "" {
		return n.startUnit(ctx)
	}
	for _, dir := range []string{n.DataDir(), n.RunDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("start agent of %s: %w", n.Name, err)
		}
	}
	var err error
	n.agent, err = start(n.Space, "agent of "+n.Name, filepath.Join(n.Dir, "agent.log"), exec.Command(n.sluice, n.AgentArgs()...))
	if err != nil {
		return err
	}
	return eventually(ctx, "agent of "+n.Name+" answers", func() error {
		if err := n.agent.running(); err != nil {
			return fatal{err}
		}
		_, err := n.Status(ctx)
		return err
	})
}

// StopAgent ends the node's agent and waits for that.
func (n *Node) StopAgent() error {
	if n.unit != "" {
		return n.stopUnit()
	}
	return n.agent.stop()
}

// Command is the program, to be started in the node's namespace, speaking to the node's agent.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.sluice, args...)
	cmd.Env = append(os.Environ(), "SLUICE_HOST="+n.Socket())
	return cmd
}

// Try runs the program and returns how it ended; an error only where it did not run.
func (n *Node) Try(ctx context.Context, args ...string) (Result, error) {
	return Finish(n.Space, n.Command(ctx, args...))
}

// Finish runs cmd in a namespace and returns how it ended.
func Finish(where *space.Space, cmd *exec.Cmd) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := where.Start(cmd); err != nil {
		return Result{}, fmt.Errorf("run %s: %w", cmd, err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return Result{}, fmt.Errorf("run %s: %w", cmd, err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// Sluice runs the program and returns what it printed; exit status 0 is expected.
func (n *Node) Sluice(ctx context.Context, args ...string) (string, error) {
	r, err := n.Try(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: sluice %s: exit %d: %s", n.Name, strings.Join(args, " "), r.Code, strings.TrimSpace(r.Stderr))
	}
	return r.Stdout, err
}

// message runs the program with -o json and reads the answer.
func (n *Node) message(ctx context.Context, into proto.Message, args ...string) error {
	text, err := n.Sluice(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("%s: sluice %s: %w", n.Name, strings.Join(args, " "), err)
	}
	return nil
}

// Status is the node's view of itself.
func (n *Node) Status(ctx context.Context) (*sluicev1.GetStatusResponse, error) {
	var status sluicev1.GetStatusResponse
	return &status, n.message(ctx, &status, "status")
}

// Service is a service and its endpoints as the node knows them.
func (n *Node) Service(ctx context.Context, name string) (*sluicev1.Service, error) {
	var answer sluicev1.GetServiceResponse
	err := n.message(ctx, &answer, "service", "inspect", name)
	return answer.GetService(), err
}

// Sandbox opens one of the namespaces that the node keeps; the caller closes it.
func (n *Node) Sandbox(ctx context.Context, name string) (*space.Space, error) {
	status, err := n.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range status.GetSandboxes() {
		if s.GetName() == name {
			return space.Open(s.GetPath())
		}
	}
	return nil, fmt.Errorf("node %s has no sandbox %q: %w", n.Name, name, fs.ErrNotExist)
}

// settled says why the node's kernel is not yet what its newest snapshot asks for, or nil.
func (n *Node) settled(ctx context.Context) error {
	r, err := n.Try(ctx, "plan", "--diff")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: sluice plan --diff: exit %d: %s%s", n.Name, r.Code, r.Stdout, r.Stderr)
	}
	return err
}

// fatal ends eventually at once.
type fatal struct{ error }

// Unwrap gives the error itself.
func (f fatal) Unwrap() error { return f.error }

// eventually asks until the answer is nil, for a minute at most: the virtual
// machine is slow, and a real failure shows its last reason.
func eventually(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ask()
		var now fatal
		switch {
		case err == nil:
			return nil
		case errors.As(err, &now):
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
