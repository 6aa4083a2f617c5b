package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// How long a process may take to end after SIGTERM, before SIGKILL.
const patience = 10 * time.Second

// process is a running program with a process group and a log file of its own.
// The goroutine that waits for it ends when it does; stop waits for that.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; set before done is closed
}

func start(where *space.Space, name, log string, cmd *exec.Cmd) (*process, error) {
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := where.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// signal sends s to the whole process group.
func (p *process) signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// stop ends the process, by force after a while. What is left of its group goes too.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	errs := []error{p.signal(syscall.SIGCONT), syscall.Kill(p.cmd.Process.Pid, syscall.SIGTERM)}
	if errors.Is(errs[1], syscall.ESRCH) {
		errs[1] = nil
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		errs = append(errs, fmt.Errorf("stop %s: it was still there %s after SIGTERM", p.name, patience))
	}
	errs = append(errs, p.signal(syscall.SIGKILL))
	<-p.done
	return errors.Join(errs...)
}

// running says why the process is not, or nil.
func (p *process) running() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %w\n%s", p.name, errors.Join(p.err, errors.New("its last words follow")), p.tail())
	default:
		return nil
	}
}

// tail is the end of the log, for a person who looks for what went wrong.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	const most = 30
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
