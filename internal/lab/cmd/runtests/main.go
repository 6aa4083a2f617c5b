// Command runtests is what "make test" runs; internal/lab/runtests says how.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/lab/runtests"
)

func main() {
	c := runtests.Config{Out: os.Stdout}
	flag.StringVar(&c.Runner, "runner", "", "`command` that runs a test binary in the VM")
	flag.StringVar(&c.Steady, "steady", "", "`command` that does so in a VM whose time is instructions")
	commands := func(name, usage string, to *[]string) {
		flag.Func(name, usage, func(command string) error {
			*to = append(*to, command)
			return nil
		})
	}
	commands("check", "shell `command` that must succeed too; may be repeated", &c.Checks)
	commands("beside", "the same, run while the steady VM is", &c.Beside)
	flag.Parse()
	c.Packages = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ok, err := runtests.Run(ctx, c)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "runtests:", err)
		os.Exit(1)
	case !ok:
		os.Exit(1)
	}
}
