package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-mesh/sluice/internal/kernel"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// workloads is where commands run: the machine, or a test's fake.
type workloads interface {
	// LookPath refuses a program that does not exist.
	LookPath(name string) error
	// New makes a fresh network namespace.
	New() (workload, error)
}

// workload is a fresh network namespace; see kernel.Workload.
type workload interface {
	Path() string
	Resolve(file string, failed func(error))
	Run(ctx context.Context, argv []string, sig <-chan os.Signal) (int, error)
	Close() error
}

// machine is workloads on this machine.
type machine struct{}

// LookPath implements workloads.
func (machine) LookPath(name string) error { return kernel.LookPath(name) }

// New implements workloads.
func (machine) New() (workload, error) {
	w, err := kernel.NewWorkload()
	if err != nil {
		return nil, err // not w: a nil *Workload in an interface is not nil
	}
	return w, nil
}

// runVerb starts a command as an endpoint.
func (a *app) runVerb() *cobra.Command {
	req := &sluicev1.AttachEndpointRequest{}
	cmd := &cobra.Command{
		Use:   "run --service SERVICE -- COMMAND...",
		Short: "Start a command in a fresh network namespace as an endpoint of a service",
		Long: "Start a command in a fresh network namespace as an endpoint of a service.\n" +
			"The endpoint ends with the command; stdin, stdout, stderr, exit status and signals pass through.",
		RunE: func(cmd *cobra.Command, argv []string) error {
			if len(argv) == 0 {
				return fmt.Errorf("COMMAND is missing")
			}
			if err := checkEndpoint(req); err != nil {
				return err
			}
			return a.serve(cmd.Context(), req, argv, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows COMMAND is its own
	endpointFlags(cmd, req)
	return cmd
}

// nameServer is what knows the cluster's names, in every endpoint.
const nameServer = "127.0.0.11"

// serve runs argv as the endpoint that req asks for, and ends with its status.
func (a *app) serve(ctx context.Context, req *sluicev1.AttachEndpointRequest, argv []string, stderr io.Writer) error {
	what := fmt.Sprintf("run %q for service %q", argv[0], req.GetService())
	to, err := a.target(what)
	if err != nil {
		return err
	}
	if to.path == "" {
		return &failure{what: what, why: "the command would run here, and the agent is on " + to.host, do: "run it there"}
	}
	if err := a.workloads.LookPath(argv[0]); err != nil {
		return localFailure(what, err)
	}
	// From here on a signal is the command's. One that comes during the attach ends
	// that by ctx, or waits in the channel for the command to be there.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)
	w, err := a.workloads.New()
	if err != nil {
		return localFailure(what, err)
	}
	defer func() { _ = w.Close() }() // the namespace ends with this process in any case

	req.Namespace = &sluicev1.AttachEndpointRequest_Netns{Netns: w.Path()}
	req.UntilPid = uint32(os.Getpid())
	resp, err := ask(ctx, a.slow("%s", what),
		sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.AttachEndpoint, req)
	if err != nil {
		return err
	}
	w.Resolve(filepath.Join(filepath.Dir(to.path), "resolv.conf"), func(err error) {
		complain(stderr, &failure{what: what, why: "it does not find the cluster's names: " + err.Error(), do: "let it ask " + nameServer})
	})
	ctx = context.WithoutCancel(ctx) // the command decides when it ends
	toCommand, stop := a.forward(signals)
	status, err := w.Run(ctx, argv, toCommand)
	stop()
	a.detachQuietly(ctx, resp.GetEndpoint().GetId(), stderr)
	switch {
	case err != nil:
		return localFailure(what, err)
	case status != 0:
		return exitStatus(status)
	}
	return nil
}

// detachQuietly ends the endpoint of a command that has ended. The command's
// status matters more than a failure here: the agent sees this process end.
func (a *app) detachQuietly(ctx context.Context, id string, stderr io.Writer) {
	c := a.to("detach endpoint %q", id)
	c.limit /= 6
	_, err := ask(ctx, c, sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.DetachEndpoint,
		&sluicev1.DetachEndpointRequest{Endpoint: id})
	var failed *failure
	if errors.As(err, &failed) && !failed.gone {
		complain(stderr, failed)
	}
}

// localFailure is about what this process did itself.
func localFailure(what string, err error) *failure {
	f := &failure{what: what, why: err.Error()}
	var refusal *kernel.Refusal
	switch {
	case errors.As(err, &refusal):
		f.why, f.do = refusal.Why, refusal.Do
	case errors.Is(err, fs.ErrPermission):
		f.do = "run it as root"
	default:
		f.do = "check that the command can be started by hand"
	}
	return f
}
