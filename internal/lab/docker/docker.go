// Package docker runs containers of a real dockerd on a lab's host, in whose network
// namespace it runs. Its image is one program, and nothing is asked of a registry.
package docker

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-mesh/sluice/internal/lab/firewall"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// Engine is a dockerd that runs. Its methods are called by one goroutine at a time.
type Engine struct {
	daemon *firewall.Firewall
	cli    string // how a shell calls the client
	group  string // the control group of its containers
	names  []string
}

// image is the name of the one image; program is where the workload is in it.
const image, program = "workload", "/workload"

// Start starts dockerd with these flags, with dir for its files, and makes the image of a
// program, which must be static.
func Start(ctx context.Context, place *space.Space, dir, workload string, flags ...string) (*Engine, error) {
	if err := static(workload); err != nil {
		return nil, err
	}
	group := "sluice-lab-" + fmt.Sprint(os.Getpid())
	daemon, err := firewall.Dockerd(ctx, place, dir, append(flags, "--cgroup-parent", "/"+group)...)
	if err != nil {
		return nil, err
	}
	// By its whole path: the client of the same package, not another one that is there too.
	e := &Engine{daemon: daemon, cli: "/usr/bin/docker -H unix://" + filepath.Join(dir, "sock") + " ", group: group}
	root := filepath.Join(dir, "root")
	_, err = e.daemon.Output(ctx, fmt.Sprintf("mkdir %s; cp %s %s; tar -C %s -c . | %simport - %s", root, workload, root+program, root, e.cli, image))
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// static says what is wrong with a program that needs others to run.
func static(path string) error {
	file, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	defer file.Close()
	if libs, err := file.ImportedLibraries(); err == nil && len(libs) > 0 {
		return fmt.Errorf("%s needs %s, which no image has: build it with CGO_ENABLED=0", path, strings.Join(libs, ", "))
	}
	return nil
}

// Version is the daemon's, as it says itself.
func (e *Engine) Version(ctx context.Context) (string, error) {
	said, err := e.daemon.Output(ctx, e.cli+"version --format '{{.Server.Version}}'")
	return strings.TrimSpace(said), err
}

// Network makes a network of the driver bridge.
func (e *Engine) Network(ctx context.Context, name string, args ...string) error {
	return e.daemon.Run(ctx, e.cli+"network create --driver bridge "+strings.Join(append(args, name), " "))
}

// Container is one that runs.
type Container struct {
	*space.Space
	Addrs []netip.Addr // on its network
}

// Run starts the workload with these arguments in a container; the caller closes its space.
func (e *Engine) Run(ctx context.Context, name, network string, options, args []string) (*Container, error) {
	e.names = append(e.names, name)
	run := append([]string{"run", "-d", "--name", name, "--network", network}, options...)
	run = append(append(run, image, program), args...)
	if err := e.daemon.Run(ctx, e.cli+strings.Join(run, " ")); err != nil {
		return nil, err
	}
	format := "'{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}} {{.GlobalIPv6Address}}{{end}}'"
	said, err := e.daemon.Output(ctx, e.cli+"inspect --format "+format+" "+name)
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(said)
	c := &Container{}
	for _, text := range fields[1:] {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", name, err)
		}
		c.Addrs = append(c.Addrs, addr)
	}
	c.Space, err = space.Open(filepath.Join("/proc", fields[0], "ns", "net"))
	return c, err
}

// Close removes the containers, and stops dockerd. Its rules and networks go with the namespace.
func (e *Engine) Close() error {
	var errs []error
	if len(e.names) > 0 {
		errs = append(errs, e.daemon.Run(context.Background(), e.cli+"rm -f "+strings.Join(e.names, " ")))
	}
	errs = append(errs, e.daemon.Close())
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + e.group)
	errs = append(errs, err)
	for _, g := range append(groups, "/sys/fs/cgroup/"+e.group) {
		if err := os.Remove(g); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
