package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netns"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// NoCommand is the reason of a refusal by LookPath.
const NoCommand plan.Reason = "NoCommand"

// LookPath refuses a command that could not be started.
func LookPath(name string) error {
	if _, err := exec.LookPath(name); err != nil {
		return &Refusal{NoCommand, fmt.Sprintf("command %q cannot be started: %v", name, errors.Unwrap(err)), "give a program in PATH or its full path"}
	}
	return nil
}

// Workload is a fresh network namespace, held by this process, that one command runs in.
type Workload struct {
	fd   netns.NsHandle
	conf resolvConf
}

// NewWorkload makes a fresh network namespace with lo up.
func NewWorkload() (*Workload, error) {
	fd, err := newNamespace()
	if err != nil {
		return nil, err
	}
	return &Workload{fd: fd}, nil
}

// Path names the namespace to other processes for as long as the Workload is open.
func (w *Workload) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.fd) }

// Close lets go of the namespace.
func (w *Workload) Close() error { return w.fd.Close() }

// Run starts argv in the namespace with this process's standard files, passes
// on what comes from signals, and waits. It returns the exit status, 128+N where
// signal N ended it. The command is killed when this process dies or ctx ends.
func (w *Workload) Run(ctx context.Context, argv []string, signals <-chan os.Signal) (int, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The parent-death signal follows the starting thread, so that thread waits too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- w.within(func() error {
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("start %s: %w", argv[0], err)
			}
			close(started)
			return w.conf.hold(cmd.Wait)
		})
	}()
	select {
	case <-started:
	case err := <-ended: // the command could not be started, or was quick
		return exitStatus(err)
	}
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended just now
		case err := <-ended:
			return exitStatus(err)
		}
	}
}

func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
