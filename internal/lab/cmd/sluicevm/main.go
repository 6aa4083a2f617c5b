// Command sluicevm runs a command in a throw-away VM whose kernel has what the
// mesh needs; internal/lab/vm says how.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/vm"
)

const usage = `usage: sluicevm [-t SECONDS] [-m MEMORY] [-1] [-systemd] [-o DIR]... COMMAND [ARG...]   run COMMAND in a VM
       sluicevm auto [the same]                                             natively if this kernel can carry the mesh
       sluicevm probe                                                       print what this kernel lacks; exit 3 if anything

The command starts in this directory with this environment (and SLUICE_VM=1, with -1 also SLUICE_VM_STEADY=1),
as root. Its output and exit status are sluicevm's; 125 says that the VM itself failed.
  -t  time limit (300)   -m  memory (4G)   -o  writes below DIR reach the host, all others are thrown away
  -1  one processor whose time advances by instructions: measurements compare however busy this machine is
  -systemd  boots systemd, COMMAND is a service of it
In "go test -exec sluicevm" profiles and coverage come out by themselves.`

// lacking is the exit status of probe where something is missing.
const lacking = 3

func main() {
	if vm.InGuest() {
		vm.Guest()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	status, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sluicevm:", err)
	}
	os.Exit(status)
}

func run(ctx context.Context, args []string) (int, error) {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch verb {
	case "probe":
		return probe()
	case "auto":
		return auto(ctx, args[1:])
	case "help", "-h", "--help":
		fmt.Println(usage)
		return 0, nil
	}
	o, err := options(args)
	if err != nil {
		return vm.Failed, err
	}
	return vm.Run(ctx, o)
}

func options(args []string) (vm.Options, error) {
	dir, err := os.Getwd()
	if err != nil {
		return vm.Options{}, err
	}
	o, err := vm.ParseArgs(args, dir, os.Environ())
	if err != nil {
		return vm.Options{}, fmt.Errorf("%w\n%s", err, usage)
	}
	o.Stdout, o.Stderr = os.Stdout, os.Stderr
	return o, nil
}

// probe prints what the running kernel lacks.
func probe() (int, error) {
	missing := feature.Missing(feature.Mesh()...)
	for _, m := range missing {
		fmt.Println(m)
	}
	if len(missing) > 0 {
		return lacking, nil
	}
	return 0, nil
}

// auto becomes the command where the kernel can carry the mesh, and runs it in a
// VM otherwise.
func auto(ctx context.Context, args []string) (int, error) {
	o, err := options(args)
	if err != nil {
		return vm.Failed, err
	}
	missing := feature.Missing(feature.Mesh()...)
	if len(missing) == 0 {
		path, err := exec.LookPath(o.Command[0])
		if err != nil {
			return 127, err
		}
		return 126, syscall.Exec(path, o.Command, os.Environ())
	}
	if os.Getenv(vm.EnvInside) == "1" {
		return vm.Failed, errors.New("the VM's kernel lacks a feature: " + feature.List(missing))
	}
	fmt.Fprintf(os.Stderr, "sluicevm: this kernel lacks %s: starting a VM\n", feature.List(missing))
	return vm.Run(ctx, o)
}
