package load

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// flushEvery is how long a request that has ended may wait until it is told.
const flushEvery = 100 * time.Millisecond

// Serve is the process that sends the requests: it reads a Spec, tells each Request
// when it has ended, and returns when its input ends.
func Serve(in io.Reader, out io.Writer) error {
	var s Spec
	input := bufio.NewReader(in)
	if err := gob.NewDecoder(input).Decode(&s); err != nil {
		return fmt.Errorf("read what to ask: %w", err)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		_, _ = io.Copy(io.Discard, input) // that it ends is all that it says
		close(stop)
	})
	buffer := bufio.NewWriter(out)
	encoder := gob.NewEncoder(buffer)
	var mu sync.Mutex
	var failed error
	flushed := time.Now()
	generate(s, stop, func(r Request) {
		mu.Lock()
		defer mu.Unlock()
		err := encoder.Encode(r)
		if now := time.Now(); now.Sub(flushed) > flushEvery {
			err, flushed = errors.Join(err, buffer.Flush()), now
		}
		failed = first(failed, err)
	})
	group.Wait()
	return first(failed, buffer.Flush())
}

// first is the first error that is one.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Load is a process that sends requests. Stop ends it.
type Load struct {
	spec  Spec
	cmd   *exec.Cmd
	input io.Closer
	said  bytes.Buffer // on its standard error
	done  chan struct{}

	mu       sync.Mutex
	requests []Request
	err      error // what was read last was no Request
}

// Start begins to send requests from a namespace. command is a program that calls Serve.
func Start(where *space.Space, command []string, s Spec) (*Load, error) {
	l := &Load{spec: s, cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	l.cmd.Stderr = &l.said
	output, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	input, err := l.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	l.input = input
	if err := where.Start(l.cmd); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	go l.read(output)
	if err := gob.NewEncoder(input).Encode(s); err != nil {
		_, stopping := l.Stop()
		return nil, errors.Join(fmt.Errorf("start load: %w", err), stopping)
	}
	return l, nil
}

// read ends with the process's output.
func (l *Load) read(output io.Reader) {
	defer close(l.done)
	decoder := gob.NewDecoder(bufio.NewReader(output))
	for {
		var r Request
		err := decoder.Decode(&r)
		l.mu.Lock()
		if err == nil {
			l.requests = append(l.requests, r)
		} else if !errors.Is(err, io.EOF) {
			l.err = err
		}
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Tally is what has ended by now.
func (l *Load) Tally() Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Tally{l.spec, slices.Clone(l.requests)}
}

// Stop lets no more requests begin, waits for those under way and gives all.
func (l *Load) Stop() (Tally, error) {
	err := l.input.Close()
	<-l.done
	if waiting := l.cmd.Wait(); waiting != nil {
		err = errors.Join(err, fmt.Errorf("load: %w: %s", waiting, bytes.TrimSpace(l.said.Bytes())))
	}
	return l.Tally(), errors.Join(err, l.err)
}
