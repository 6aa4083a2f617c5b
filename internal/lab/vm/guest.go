package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InGuest says whether this process is the first of a guest, or systemd's service
// there, and must call Guest.
func InGuest() bool {
	if os.Getpid() != 1 {
		return inService() // the common case, without a look at the disk
	}
	_, err := os.Stat(specFile)
	return err == nil
}

// Guest is all that the first process of a guest does: it makes the root,
// runs the command, tells the host and powers the machine off. Under systemd the
// service does what follows the making of the root.
func Guest() {
	g := guest{}
	status, err := g.run()
	switch {
	case err == nil:
		fmt.Fprintf(g.control, "exit %d\n", status)
	case g.control != nil:
		fmt.Fprintf(g.control, "fail %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	default:
		fmt.Fprintln(os.Stderr, "sluicevm:", err) // the console
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	time.Sleep(time.Minute) // powering off is not at once, and a first process must not end
}

type guest struct {
	spec
	control *os.File // where the verdict goes; nil until the port is found
}

func (g *guest) run() (int, error) {
	if inService() {
		if err := g.read(serviceSpec); err != nil {
			return 0, err
		}
	} else if err := g.boot(); err != nil {
		return 0, err
	}
	var err error
	if g.control, err = openPort(portControl); err != nil {
		return 0, err
	}
	stdout, err := openPort(portOut)
	if err != nil {
		return 0, err
	}
	stderr, err := openPort(portErr)
	if err != nil {
		return 0, err
	}
	if !inService() {
		if err := g.makeRoot(); err != nil {
			return 0, fmt.Errorf("make root: %w", err)
		}
		if err := g.settle(); err != nil {
			return 0, fmt.Errorf("settle in: %w", err)
		}
		if g.Systemd {
			return 0, g.becomeSystemd() // which opens the ports again
		}
	}
	return g.command(stdout, stderr)
}

func (g *guest) read(specFile string) error {
	text, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &g.spec)
}

// boot is what comes before there is a way to the host.
func (g *guest) boot() error {
	if err := g.read(specFile); err != nil {
		return err
	}
	return g.reachDevices()
}

// reachDevices loads the modules that lead to ports and root.
func (g *guest) reachDevices() error {
	for _, m := range []mount{{"devtmpfs", "dev", "/dev", ""}, {"proc", "proc", "/proc", ""}, {"sysfs", "sys", "/sys", ""}} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, path := range g.Load {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// openPort opens the port of that name, which appears a moment after its
// module. A blocking write returns only once the host has the bytes: what was
// written before the verdict is out before the verdict.
func openPort(name string) (*os.File, error) {
	for range 500 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name") // the pattern is well-formed
		for _, path := range names {
			text, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(text)) != name {
				continue
			}
			fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(path)), unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, fmt.Errorf("open port %s: %w", name, err)
			}
			return os.NewFile(uintptr(fd), name), nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("there is no port %s", name)
}

// command runs the command and gives its exit status as a shell would. What it
// leaves running is killed, so that output ends.
func (g *guest) command(stdout, stderr *os.File) (int, error) {
	os.Clearenv()
	for _, v := range g.Env {
		if key, value, ok := strings.Cut(v, "="); ok {
			_ = os.Setenv(key, value) // a name that cannot be set could not have been there
		}
	}
	if err := os.Chdir(g.Dir); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(g.Command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		fmt.Fprintln(stderr, "sluicevm:", err)
		return 127, nil
	}
	pid, copied, err := g.start(path, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "sluicevm: start %s: %v\n", path, err)
		return 126, nil
	}
	status, err := reap(pid)
	_ = unix.Kill(-1, unix.SIGKILL)
	for range 2 {
		<-copied
	}
	unix.Sync()
	return status, err
}

// start starts the command; the channel gets one value for each output at its end.
// A pipe stands before each port because a port can be opened once only, and
// programs open /dev/stderr.
func (g *guest) start(path string, stdout, stderr *os.File) (int, <-chan struct{}, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	files := []uintptr{null.Fd()}
	copied := make(chan struct{}, 2)
	for _, port := range []*os.File{stdout, stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, nil, err
		}
		defer w.Close()
		files = append(files, w.Fd())
		go func() {
			_, _ = io.Copy(port, r) // it fails only where the host no longer listens
			copied <- struct{}{}
		}()
	}
	pid, err := syscall.ForkExec(path, g.Command, &syscall.ProcAttr{
		Env: g.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	return pid, copied, err
}

// reap waits for the command, and for every orphan meanwhile, as a first process
// must: a process that waits for another's end would see it for ever otherwise.
func reap(command int) (int, error) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR) || err == nil && pid != command:
		case err != nil:
			return 0, fmt.Errorf("wait for command: %w", err)
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}
