package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoTerminal says that stdin is nobody's keyboard.
var errNoTerminal = errors.New("stdin is no terminal")

// confirm asks a question on out and reads the answer from in, which must be a
// terminal. Anything but y or yes means no.
func confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	terminal, ok := in.(*os.File)
	if !ok {
		return false, errNoTerminal
	}
	fd := int(terminal.Fd())
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return false, errNoTerminal
	}
	if _, err := fmt.Fprintf(out, "%s [y/N] ", question); err != nil {
		return false, fmt.Errorf("ask: %w", err)
	}
	if err := readable(ctx, fd); err != nil {
		return false, err
	}
	answer, err := bufio.NewReader(terminal).ReadString('\n') // a terminal gives whole lines
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true, nil
	default:
		return false, nil
	}
}

// readable waits until there is something to read. A read of a terminal cannot be
// interrupted, and the signal that would end this program only ends ctx.
func readable(ctx context.Context, fd int) error {
	const tick = 100 // ms
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, tick)
		switch {
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the answer: %w", err)
		}
	}
}
