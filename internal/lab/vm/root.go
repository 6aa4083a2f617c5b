package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mount is one file system to mount; its place is made where absent.
type mount struct{ kind, source, on, data string }

func (m mount) do() error {
	if err := os.MkdirAll(m.on, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.on, m.kind, 0, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.on, err)
	}
	return nil
}

// makeRoot makes the guest's root of the host's and moves into it. Only the
// outputs can be written through: the mount of the host's root itself is gone
// when the command starts.
func (g *guest) makeRoot() error {
	const host, root = "/host", "/root"
	for _, m := range []mount{{"virtiofs", rootTag, host, ""}, {"tmpfs", "rw", "/rw", "size=75%"}} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/rw/upper", "/rw/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, m := range []mount{
		{"overlay", "root", root, "lowerdir=" + host + ",upperdir=/rw/upper,workdir=/rw/work"},
		{"tmpfs", "run", root + "/run", "mode=0755"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, dir := range g.Outputs {
		if err := move(host+dir, root+dir, unix.MS_BIND); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := move(dir, root+dir, unix.MS_MOVE); err != nil {
			return err
		}
	}
	for _, gone := range []string{host, "/rw"} {
		if err := unix.Unmount(gone, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach %s: %w", gone, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return os.Chdir("/")
}

func move(from, to string, how uintptr) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", how, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", from, to, err)
	}
	return nil
}

// settle does what an ordinary system does at its start and tests rely on.
func (g *guest) settle() error {
	for _, m := range []mount{
		{"tmpfs", "shm", "/dev/shm", "mode=1777"},
		{"devpts", "pts", "/dev/pts", "mode=0620,ptmxmode=0666"},
		{"cgroup2", "cgroup", "/sys/fs/cgroup", ""},
		{"bpf", "bpf", "/sys/fs/bpf", ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	// Mounts spread to namespaces made later, as they do under systemd.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	links := []struct{ target, name string }{
		{"/proc/self/fd", "/dev/fd"},
		{"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"},
		{"/proc/self/fd/2", "/dev/stderr"},
		{g.Modules, filepath.Join("/lib/modules", g.Kernel)}, // modprobe, also the kernel's own calls of it, looks here
	}
	for _, l := range links {
		if err := os.MkdirAll(filepath.Dir(l.name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(l.target, l.name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := unix.Sethostname([]byte(g.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	const files = 1 << 20 // the kernel's own limit of 4096 is below what a hundred namespaces need
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("raise file limit: %w", err)
	}
	unix.Umask(0o022)
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
