// Package runtests runs the module's tests so that none is passed over: here
// whatever this kernel can carry, and the tests that asked for a VM
// (feature.Need) in one, package by package. A test that ran nowhere has failed.
//
//	go test -json ./... --> results --put off--> go test -json -exec VM -run … PACKAGE
//	                            \________________________/
//	                                     merged, counted
package runtests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Config is what to run.
type Config struct {
	Checks   []string // shell commands before the tests; each counts as one
	Beside   []string // and those that run while the steady VM does, which no load disturbs
	Packages []string // as go test takes them
	Runner   string   // what go test -exec runs tests by, with its flags, in a VM
	Steady   string   // the same for a VM whose time is instructions
	Out      io.Writer
}

// Run runs everything, one step after another, and prints what failed and at
// the end the counts. It says whether all passed; an error says that it could
// not be found out.
func Run(ctx context.Context, c Config) (bool, error) {
	start := time.Now()
	all := newResults()
	for _, check := range c.Checks {
		c.check(ctx, all, check)
	}
	fmt.Fprintln(c.Out, "== tests on this kernel")
	if err := c.goTest(ctx, all, c.Packages...); err != nil {
		return false, err
	}
	if err := errors.Join(c.inVM(ctx, all, later, c.Runner), c.steadily(ctx, all)); err != nil {
		return false, err
	}
	s := all.summary()
	s.print(c.Out, time.Since(start))
	return s.failed == 0, nil
}

// inVM runs what was put off to one kind of VM. The runner's flags limit the time: go
// test's own limit counts by the VM's clock, which jumps over hours in the steady one.
func (c Config) inVM(ctx context.Context, all *results, to state, runner string) error {
	for _, p := range all.putOff(to) {
		fmt.Fprintf(c.Out, "== in the VM: %s: %s\n", p.pkg, strings.Join(p.tests, " "))
		in := newResults()
		if err := c.goTest(ctx, in, "-timeout=0", "-exec", runner, "-run", "^("+strings.Join(p.tests, "|")+")$", p.pkg); err != nil {
			return err
		}
		all.merge(p, in)
	}
	return nil
}

// steadily runs what was put off to the steady VM, and the commands beside it.
func (c Config) steadily(ctx context.Context, all *results) error {
	var said bytes.Buffer
	beside := newResults()
	var done sync.WaitGroup
	done.Go(func() {
		for _, command := range c.Beside {
			Config{Out: &said}.check(ctx, beside, command)
		}
	})
	err := c.inVM(ctx, all, steadily, c.Steady)
	done.Wait()
	fmt.Fprint(c.Out, said.String())
	maps.Copy(all.checks, beside.checks)
	return err
}

// check runs one shell command and shows what it said if it failed.
func (c Config) check(ctx context.Context, r *results, command string) {
	start := time.Now()
	said, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
	state := passed
	if err != nil {
		state = failed
		fmt.Fprintf(c.Out, "%s\n%v\n", said, err)
	}
	fmt.Fprintf(c.Out, "%-5s %s %.1fs\n", state, command, time.Since(start).Seconds())
	r.checks[command] = state
}

// goTest runs go test and reads its events into r. That tests failed is no error.
func (c Config) goTest(ctx context.Context, r *results, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1", "-timeout=30m"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := r.read(events, c.Out)
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case readErr != nil:
		return fmt.Errorf("read events of go test: %w", readErr)
	case waitErr != nil && !r.anyFailed():
		return fmt.Errorf("go test: %w", waitErr)
	}
	return nil
}
