package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/plan"
)

func someReset() *agent.ResetReport {
	return &agent.ResetReport{
		Files: []string{"/var/lib/sluice/sluice.db"},
		ResetReport: kernel.ResetReport{
			Report: kernel.Report{Done: []kernel.Op{
				{Verb: kernel.Delete, Sandbox: plan.IngressSandbox, Object: kernel.Namespace{Kind: plan.KindIngress}},
			}},
			Restored: []kernel.Setting{{Key: "net/ipv4/ip_forward", Before: "0", Ours: "1"}},
			Left:     []kernel.Left{{Object: "/run/sluice/mine", Why: "sluice did not make it"}},
		},
	}
}

func TestResetVerb(t *testing.T) {
	whole, partly := someReset(), someReset()
	partly.Failed = []kernel.Failure{{Object: "host: link sl-ingress", Reason: plan.KernelRefused, Err: syscall.EBUSY}}
	for _, c := range []struct {
		name   string
		report *agent.ResetReport
		err    error
		status int
	}{
		{"whole", whole, nil, 0},
		{"partly", partly, nil, 1},
		{"refused", nil, errors.New("an agent runs: stop it first"), 1},
		{"not root", nil, fmt.Errorf("open the kernel: %w", syscall.EPERM), 1},
	} {
		for _, form := range []string{"table", "json", "yaml"} {
			t.Run(c.name+" "+form, func(t *testing.T) {
				a := newApp()
				a.reset = func(_ context.Context, cfg agent.ResetConfig) (*agent.ResetReport, error) {
					if cfg.DataDir != "/d" || cfg.RunDir != "/r" || cfg.GossipPort != 7 || cfg.Log == nil {
						t.Errorf("got %+v", cfg)
					}
					return c.report, c.err
				}
				got := sluice(t, a, "reset", "--yes", "--data-dir", "/d", "--run-dir", "/r", "--gossip-port", "7", "-o", form)
				if got.status != c.status {
					t.Errorf("exit status %d, want %d", got.status, c.status)
				}
				golden.Equal(t, got.stdout+got.stderr)
			})
		}
	}
}

// Nothing is done without a yes.
func TestResetAsks(t *testing.T) {
	var done int
	for _, c := range []struct {
		yes    bool
		err    error
		stderr string
		done   int
	}{
		{yes: true, done: 1},
		{stderr: "sluice: reset this host: the answer was not yes: nothing was changed\n"},
		{err: errNoTerminal, stderr: "sluice: reset this host: there is no terminal to ask at: give --yes\n"},
		{
			err:    errors.New("interrupted"),
			stderr: "sluice: reset this host: interrupted: nothing was changed; give --yes to go on without a question\n",
		},
	} {
		done = 0
		a := newApp()
		a.confirm = func(context.Context, io.Reader, io.Writer, string) (bool, error) { return c.yes, c.err }
		a.reset = func(context.Context, agent.ResetConfig) (*agent.ResetReport, error) {
			done++
			return someReset(), nil
		}
		if got := sluice(t, a, "reset"); got.stderr != c.stderr || done != c.done {
			t.Errorf("done %d times, got %+v, want stderr %q", done, got, c.stderr)
		}
	}
}

// terminal opens both ends of a pseudo terminal.
func terminal(t *testing.T) (keyboard, program *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return keyboard, program
}

func TestConfirm(t *testing.T) {
	for typed, want := range map[string]bool{"y\n": true, "YES\n": true, "\n": false, "no\n": false, "yesterday\n": false} {
		keyboard, program := terminal(t)
		if _, err := keyboard.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		var asked strings.Builder
		got, err := confirm(t.Context(), program, &asked, "Go on?")
		if err != nil || got != want || asked.String() != "Go on? [y/N] " {
			t.Errorf("%q: got %v, %v, asked %q", typed, got, err, asked.String())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, program := terminal(t)
	if _, err := confirm(ctx, program, io.Discard, "Go on?"); err == nil {
		t.Error("an interrupted question has an answer")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, in := range []io.Reader{null, strings.NewReader("yes\n")} {
		if _, err := confirm(t.Context(), in, io.Discard, "Go on?"); !errors.Is(err, errNoTerminal) {
			t.Errorf("got %v", err)
		}
	}
}
