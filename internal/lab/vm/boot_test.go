package vm_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// buildRunner builds the program as make does: static.
func buildRunner(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluicevm")
	c := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../cmd/sluicevm")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build runner: %v\n%s", err, said)
	}
	return path
}

// TestBoot starts real machines, one after another.
func TestBoot(t *testing.T) {
	runner := buildRunner(t)
	t.Run("command", func(t *testing.T) { bootCommand(t, runner) })
	t.Run("go test", func(t *testing.T) { bootGoTest(t, runner) })
	t.Run("limit", func(t *testing.T) { bootLimit(t, runner) })
	t.Run("interrupt", func(t *testing.T) { bootInterrupt(t, runner) })
}

// bootCommand looks at everything that goes in and comes out in one boot.
func bootCommand(t *testing.T, runner string) {
	t.Helper()
	out, dir := t.TempDir(), t.TempDir()
	script := `
		echo "$WORDS|$SLUICE_VM|$PWD"
		printf 'not\r\n\000text' >&2
		echo kept > "$OUT/kept"
		echo lost > lost && cat lost
		echo again > /dev/stdout
		/sbin/modprobe ip_vs_rr && grep -o '^ip_vs_rr' /proc/modules
		sleep 1000 &
		exit 7`
	c := exec.CommandContext(t.Context(), runner, "-t", "180", "-o", out, "bash", "-c", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "WORDS=two  words\n'$x'", "OUT="+out)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if got := status(t, c.Run()); got != 7 {
		t.Errorf("exit status %d, want 7", got)
	}
	if want := "two  words\n'$x'|1|" + dir + "\nlost\nagain\nip_vs_rr\n"; stdout.String() != want {
		t.Errorf("stdout %q, want %q", stdout.String(), want)
	}
	if want := "not\r\n\000text"; !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("stderr %q, want it to end in %q", stderr.String(), want)
	}
	if text, err := os.ReadFile(filepath.Join(out, "kept")); err != nil || string(text) != "kept\n" {
		t.Errorf("file in the output directory: %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lost")); err == nil {
		t.Error("a write elsewhere reached the host")
	}
}

// bootGoTest wants coverage, a profile and a passing test out of go test -exec.
func bootGoTest(t *testing.T, runner string) {
	t.Helper()
	profile := filepath.Join(t.TempDir(), "sub", "cover.out")
	if err := os.Mkdir(filepath.Dir(profile), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-exec", runner+" -t 180",
		"-coverprofile", profile, "-memprofile", filepath.Join(filepath.Dir(profile), "mem.out"),
		"-o", filepath.Join(t.TempDir(), "tiny.test"), "./testdata/tiny")
	said, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "coverage: 66.7% of statements") {
		t.Fatalf("go test -exec: %v\n%s", err, said)
	}
	for _, name := range []string{"cover.out", "mem.out"} {
		if text, err := os.ReadFile(filepath.Join(filepath.Dir(profile), name)); err != nil || len(text) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
}

func bootLimit(t *testing.T, runner string) {
	t.Helper()
	tmp := t.TempDir()
	c := exec.CommandContext(t.Context(), runner, "-t", "2", "sleep", "1000")
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	said, err := c.CombinedOutput()
	if got := status(t, err); got != 125 || !strings.Contains(string(said), "not done after 2s") {
		t.Errorf("exit status %d, said %q", got, said)
	}
	nothingLeft(t, tmp)
}

func bootInterrupt(t *testing.T, runner string) {
	t.Helper()
	tmp := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, runner, "sleep", "1000")
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 20 * time.Second
	if got := status(t, c.Run()); got != 125 {
		t.Errorf("exit status %d, want 125", got)
	}
	nothingLeft(t, tmp)
}

// nothingLeft looks for the runner's own directory, and for processes that have
// it in their command line.
func nothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left in the temporary directory: %v", left)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		if text, _ := os.ReadFile(line); strings.Contains(string(text), tmp) {
			t.Errorf("still runs: %q", text)
		}
	}
}

// status is the exit status behind the error of Run.
func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return exit.ExitCode()
}
