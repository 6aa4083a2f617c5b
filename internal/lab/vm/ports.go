package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// The ports between guest and host, by name.
const (
	portOut     = "out"
	portErr     = "err"
	portControl = "control"
)

// portNames lists the ports in the order of their file descriptors.
func portNames() [3]string { return [3]string{portOut, portErr, portControl} }

// ports holds both ends of the socket pair behind each port.
type ports struct {
	host, guest [3]*os.File
}

func newPorts() (*ports, error) {
	var p ports
	for i, name := range portNames() {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			p.close()
			return nil, fmt.Errorf("make port %s: %w", name, err)
		}
		p.host[i], p.guest[i] = os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	}
	return &p, nil
}

// closeGuestEnds leaves them to qemu alone, so that its end ends our reading.
func (p *ports) closeGuestEnds() {
	for i, f := range p.guest {
		if f != nil {
			f.Close()
		}
		p.guest[i] = nil
	}
}

func (p *ports) close() {
	p.closeGuestEnds()
	for _, f := range p.host {
		if f != nil {
			f.Close()
		}
	}
}

// verdict is what the guest said about the command.
type verdict struct {
	known  bool
	status int   // of the command, where known
	err    error // why there is none, as the guest saw it
}

// copy passes the guest's output on until qemu has ended, and then sends the
// verdict. As soon as the verdict is known it calls done: the guest has then
// nothing more to say, and need not be waited for.
func (p *ports) copy(stdout, stderr io.Writer, done func()) <-chan verdict {
	result := make(chan verdict, 1)
	outDone, errDone := make(chan struct{}), make(chan struct{})
	go func() { _, _ = io.Copy(stdout, p.host[0]); close(outDone) }()
	go func() { _, _ = io.Copy(stderr, p.host[1]); close(errDone) }()
	go func() {
		v := readVerdict(p.host[2])
		if v.known {
			done()
		}
		<-outDone
		<-errDone
		result <- v
	}()
	return result
}

// readVerdict reads the control port: one line, "exit STATUS" or "fail WHY".
func readVerdict(r io.Reader) verdict {
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return verdict{}
	}
	line = strings.TrimSpace(line)
	if why, failed := strings.CutPrefix(line, "fail "); failed {
		return verdict{err: fmt.Errorf("guest: %s", why)}
	}
	var v verdict
	if _, err := fmt.Sscanf(line, "exit %d", &v.status); err != nil {
		return verdict{err: fmt.Errorf("guest said %q", line)}
	}
	v.known = true
	return v
}
