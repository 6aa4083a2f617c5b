package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// signalled runs a command that sends this process some signals and then SIGTERM, and returns
// what the command was passed until SIGTERM came.
func signalled(t *testing.T, a *app, send ...syscall.Signal) []os.Signal {
	t.Helper()
	f := startAgent(t, map[string]any{
		"AttachEndpoint": &sluicev1.AttachEndpointResponse{Endpoint: endpointWeb()},
		"DetachEndpoint": &sluicev1.DetachEndpointResponse{},
	})
	var got []os.Signal
	a.workloads = &fakeWorkloads{run: func(sig <-chan os.Signal) (int, error) {
		for _, s := range append(send, syscall.SIGTERM) {
			if err := syscall.Kill(os.Getpid(), s); err != nil {
				return 0, err
			}
		}
		for s := range sig {
			if got = append(got, s); s == syscall.SIGTERM {
				break
			}
		}
		return 0, nil
	}}
	if res := sluice(t, a, "--host", f.host, "run", "--service", "web", "--", "srv"); res.status != 0 {
		t.Fatalf("got %+v", res)
	}
	return got
}

// What nohup or a shell's "&" made ignored stays so, for this process and for the command.
func TestIgnoredStaysIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if got := signalled(t, newApp(), syscall.SIGHUP); len(got) != 1 {
		t.Errorf("passed on %v", got)
	}
	if !signal.Ignored(syscall.SIGHUP) {
		t.Error("SIGHUP is no longer ignored")
	}
	if got := heard(syscall.SIGHUP, syscall.SIGTERM); len(got) != 1 || got[0] != syscall.SIGTERM {
		t.Errorf("heard are %v", got)
	}
}

// The keys of a terminal reach everybody in the foreground: the command has its own signal.
func TestKeysAreNotPassedOn(t *testing.T) {
	a := newApp()
	a.foreground = func() bool { return true }
	if got := signalled(t, a, syscall.SIGINT, syscall.SIGQUIT); len(got) != 1 {
		t.Errorf("passed on %v", got)
	}
}

const foregroundVariable = "SLUICE_TEST_FOREGROUND"

// TestForeground looks from processes with and without a terminal; it is them too.
func TestForeground(t *testing.T) {
	if os.Getenv(foregroundVariable) != "" {
		fmt.Printf("foreground %v\n", inForeground())
		return
	}
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for _, c := range []struct {
		attr *syscall.SysProcAttr
		want bool
	}{
		{&syscall.SysProcAttr{Setsid: true, Setctty: true}, true},
		{&syscall.SysProcAttr{Setsid: true}, false},
	} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestForeground$")
		cmd.Env = append(os.Environ(), foregroundVariable+"=1")
		cmd.Stdin, cmd.SysProcAttr = terminal, c.attr
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("foreground %v\n", c.want)) {
			t.Errorf("with a terminal %v: %s, %v", c.want, out, err)
		}
	}
}
