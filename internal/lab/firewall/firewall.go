// Package firewall runs the firewalls of other programs on a lab's hosts: ufw,
// firewalld and dockerd, each in a network namespace, with configuration and state of
// its own, so that the machine's stay as they are.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// Firewall is one that runs. Its methods are called by one goroutine at a time.
type Firewall struct {
	place    *space.Space
	dir      string
	env      []string
	mounts   string // shell commands, in a mount namespace, before any other
	open     string // shell command with the verbs PORT and PROTO
	reload   string
	list     string
	services []*exec.Cmd
}

// wait is how long a program may take to be ready.
const wait = time.Minute

// UFW enables ufw as Debian configures it, with dir for its files.
func UFW(ctx context.Context, place *space.Space, dir string) (*Firewall, error) {
	f := &Firewall{
		place: place, dir: dir, open: "ufw allow PORT/PROTO", reload: "ufw reload", list: "iptables-nft -S; ip6tables-nft -S",
		mounts: "mount --bind ufw /etc/ufw; mount --bind default /etc/default/ufw; mount -t tmpfs none /run",
	}
	for from, to := range map[string]string{"/etc/ufw": "ufw", "/etc/default/ufw": "default"} {
		if out, err := exec.CommandContext(ctx, "cp", "-rT", from, filepath.Join(dir, to)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("copy %s: %w: %s", from, err, out)
		}
	}
	return f, f.Run(ctx, "ufw --force enable")
}

// Firewalld starts firewalld as it is without any configuration, with a bus of its own.
func Firewalld(ctx context.Context, place *space.Space, dir string) (*Firewall, error) {
	return FirewalldAs(ctx, place, dir)
}

// FirewalldAs is Firewalld with lines of firewalld.conf.
func FirewalldAs(ctx context.Context, place *space.Space, dir string, settings ...string) (*Firewall, error) {
	f := &Firewall{
		place: place, dir: dir, open: "firewall-cmd -q --add-port=PORT/PROTO", reload: "firewall-cmd -q --runtime-to-permanent; firewall-cmd -q --reload",
		list: "nft -s list table inet firewalld", env: []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + filepath.Join(dir, "bus")},
		mounts: "mount -t tmpfs none /run",
	}
	const bus = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/><allow send_type="method_call"/></policy></busconfig>
`
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc", "firewalld.conf"), []byte(strings.Join(settings, "\n")+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, bus, filepath.Join(dir, "bus")), 0o600),
	)
	if err != nil {
		return nil, err
	}
	return f, f.started(ctx, "firewall-cmd -q --state",
		"dbus-daemon --nofork --config-file=$PWD/bus.conf",
		"until [ -S bus ]; do sleep 0.1; done; exec firewalld --nofork --nopid --system-config $PWD/etc --log-file $PWD/firewalld.log")
}

// Docker starts dockerd with nothing in it.
func Docker(ctx context.Context, place *space.Space, dir string) (*Firewall, error) {
	return Dockerd(ctx, place, dir)
}

// Dockerd is Docker with flags. Its socket is dir/sock. What it would leave in /etc/docker is
// gone with its mount namespace.
func Dockerd(ctx context.Context, place *space.Space, dir string, flags ...string) (*Firewall, error) {
	f := &Firewall{
		place: place, dir: dir, list: "iptables-nft -S",
		mounts: "mount -t tmpfs none /run; mount -t tmpfs none /etc/docker; mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup",
	}
	command := "exec dockerd --data-root $PWD/data --exec-root $PWD/exec --pidfile $PWD/pid -H unix://$PWD/sock --storage-driver vfs"
	return f, f.started(ctx, "curl -sf --unix-socket sock http://docker/_ping", strings.Join(append([]string{command}, flags...), " "))
}

// Open lets packets to a port of the host in; proto is tcp or udp.
func (f *Firewall) Open(ctx context.Context, port uint16, proto string) error {
	if f.open == "" {
		return nil // it keeps nothing closed
	}
	return f.Run(ctx, strings.NewReplacer("PORT", fmt.Sprint(port), "PROTO", proto).Replace(f.open))
}

// Reload has the program load its rules again.
func (f *Firewall) Reload(ctx context.Context) error { return f.Run(ctx, f.reload) }

// List is a shell command that prints the program's rules.
func (f *Firewall) List() string { return f.list }

// Run runs a shell command as the host's administrator would.
func (f *Firewall) Run(ctx context.Context, command string) error {
	_, err := f.Output(ctx, command)
	return err
}

// Output is Run, and returns what the command printed.
func (f *Firewall) Output(ctx context.Context, command string) (string, error) {
	cmd := f.command(ctx, command)
	said, log := &strings.Builder{}, &strings.Builder{}
	cmd.Stdout, cmd.Stderr = said, log
	if err := f.place.Start(cmd); err != nil {
		return "", fmt.Errorf("run %s: %w", command, err)
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", command, err, strings.TrimSpace(said.String()+log.String()))
	}
	return said.String(), nil
}

func (f *Firewall) command(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "unshare", "-m", "sh", "-ec", f.mounts+"; "+command)
	cmd.Dir, cmd.Env = f.dir, append(os.Environ(), f.env...)
	return cmd
}

// started starts the commands and waits until ready succeeds. Where it does not, all
// are stopped and their last words are in the error.
func (f *Firewall) started(ctx context.Context, ready string, commands ...string) error {
	log, err := os.Create(filepath.Join(f.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	for _, c := range commands {
		cmd := f.command(context.Background(), c) // not ctx: it lives until Close
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := f.place.Start(cmd); err != nil {
			return errors.Join(fmt.Errorf("start %s: %w", c, err), f.Close())
		}
		f.services = append(f.services, cmd)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(200 * time.Millisecond) {
		err := f.Run(ctx, ready)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			words, _ := os.ReadFile(log.Name()) // what there is of it
			return errors.Join(fmt.Errorf("wait until it runs: %w: %s", err, words), f.Close())
		}
	}
}

// Close stops what runs, the bus last: firewalld without one does not take its rules away. Those of
// others stay: they go with the namespace.
func (f *Firewall) Close() error {
	var errs []error
	for _, cmd := range slices.Backward(f.services) {
		group := -cmd.Process.Pid
		errs = append(errs, syscall.Kill(cmd.Process.Pid, syscall.SIGTERM))
		done := make(chan struct{})
		go func() {
			_ = cmd.Wait() // by a signal, as was asked for
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
		}
		if err := syscall.Kill(group, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
		<-done
	}
	f.services = nil
	return errors.Join(errs...)
}
