// Package vm runs one command in a throw-away virtual machine whose kernel has
// what the running one may lack: IPVS, WireGuard, netem.
//
//	host                                   guest
//	/  --virtiofsd, read-only-->  /  (under a tmpfs overlay: writes are thrown away)
//	OUTPUT DIRS  --virtiofsd-->   the same paths, writable
//	stdout, stderr, control  <--virtio-serial ports--  process 1 (this package again)
//
// The guest is Debian's cloud kernel and an initramfs of three things: this very
// program, the modules that it needs to reach its root, and what to run. Output
// travels over ports of its own and not over the console, so it arrives byte for
// byte, and the kernel's own talk is shown only when the machine fails.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Failed is the exit status that says that the machine failed, not the command.
const Failed = 125

// EnvInside is the variable that is 1 in the environment of every command in a
// guest.
const EnvInside = "SLUICE_VM"

// EnvSteady is the variable that is 1 there where Options.Steady is set.
const EnvSteady = "SLUICE_VM_STEADY"

// Options is one run.
type Options struct {
	Command []string // looked up in the guest, by the PATH of Env
	Dir     string   // where it starts
	Env     []string
	Outputs []string      // directories below which writes reach the host; made where absent
	Limit   time.Duration // from power on to the command's end
	Memory  string        // as qemu writes it: 4G
	// Steady counts time by instructions on one processor: a run takes the same
	// guest time however busy the host is, and so results compare.
	Steady bool
	// Systemd makes systemd the guest's first process: it starts what every service
	// depends on, and the command as a service of its own.
	Systemd bool
	Stdout  io.Writer
	Stderr  io.Writer
}

// Run boots a machine, runs the command and gives its exit status. An error says
// that the machine failed; nothing of it is left in any case. Many may run at once.
func Run(ctx context.Context, o Options) (int, error) {
	if err := prepare(&o); err != nil {
		return Failed, err
	}
	kernel, err := findKernel(ctx, o.Stderr)
	if err != nil {
		return Failed, fmt.Errorf("get a kernel: %w", err)
	}
	work, err := os.MkdirTemp("", "sluicevm-")
	if err != nil {
		return Failed, err
	}
	defer os.RemoveAll(work)
	if err := writeInitramfs(filepath.Join(work, "initramfs"), kernel, o); err != nil {
		return Failed, fmt.Errorf("write initramfs: %w", err)
	}
	// The processes below end with the thread that started them (Pdeathsig), so
	// that even a killed runner leaves none: this thread must outlive them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	limited, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("not done after %s", o.Limit))
	defer cancel()
	m := machine{Options: o, kernel: kernel, work: work}
	return m.run(limited)
}

// prepare makes paths absolute and the output directories exist.
func prepare(o *Options) error {
	for i, dir := range o.Outputs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make output directory: %w", err)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return err
		}
		if o.Outputs[i], err = filepath.EvalSymlinks(abs); err != nil {
			return err
		}
	}
	return nil
}

// machine is one machine while it runs.
type machine struct {
	Options
	kernel kernel
	work   string // our own directory: sockets, initramfs, console log
}

// run starts the file server and the machine and waits for both.
func (m *machine) run(ctx context.Context) (int, error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	files, err := m.startFiles(ctx)
	if err != nil {
		return Failed, fmt.Errorf("share files: %w", err)
	}
	defer func() { end(); _ = files.Wait() }()

	p, err := newPorts()
	if err != nil {
		return Failed, err
	}
	defer p.close()
	qemu := m.command(ctx, "qemu-system-x86_64", m.qemuArgs()...)
	qemu.ExtraFiles = p.guest[:]
	if err := qemu.Start(); err != nil {
		return Failed, err
	}
	p.closeGuestEnds()
	verdict := p.copy(m.Stdout, m.Stderr, end)
	waitErr := qemu.Wait()
	v := <-verdict
	switch {
	case v.known:
		return v.status, nil
	case context.Cause(ctx) != nil:
		return Failed, context.Cause(ctx)
	}
	return Failed, fmt.Errorf("the machine ended early: %w", errors.Join(v.err, waitErr, m.lastWords()))
}

// command is a child that cannot outlive us and gets no signal from our terminal.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return c
}

func (m *machine) qemuArgs() []string {
	cpu := []string{"-accel", "tcg,thread=multi", "-smp", strconv.Itoa(runtime.NumCPU())}
	if m.Steady {
		cpu = []string{"-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-smp", "1"}
	}
	args := append(cpu,
		"-cpu", "max,-erms,-fsrm", // "rep movsb" is emulated byte by byte: make the kernel copy by words
		"-m", m.Memory, "-object", "memory-backend-memfd,id=mem,share=on,size="+m.Memory, "-numa", "node,memdev=mem",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "socket,id=files,path="+m.path("files"), "-device", "vhost-user-fs-pci,chardev=files,tag="+rootTag,
		"-chardev", "file,id=console,path="+m.path("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci",
		"-kernel", m.kernel.image(), "-initrd", m.path("initramfs"),
		// The kernel does not trust an emulated TSC by itself, and asks the HPET instead:
		// a trap for every look at a clock, of which Go's scheduler takes many.
		"-append", "console=ttyS0 quiet tsc=reliable clocksource=tsc mitigations=off panic=-1 rdinit=/init")
	for i, name := range portNames() {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=%s,fd=%d", name, 3+i), // 3: the first of ExtraFiles
			"-device", fmt.Sprintf("virtserialport,chardev=%s,name=%s", name, name))
	}
	return args
}

func (m *machine) path(name string) string { return filepath.Join(m.work, name) }

// lastWords is the end of what the kernel and the file server said.
func (m *machine) lastWords() error {
	var said []byte
	for _, name := range []string{"console", "files.log"} {
		text, _ := os.ReadFile(m.path(name)) // absent: it said nothing
		said = append(said, text...)
	}
	said = bytes.TrimSpace(bytes.ReplaceAll(said, []byte("\r"), nil))
	if len(said) > 4000 {
		said = said[len(said)-4000:]
	}
	if len(said) == 0 {
		return nil
	}
	return fmt.Errorf("console:\n%s", said)
}
