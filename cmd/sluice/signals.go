package main

import (
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// heard are those of the signals that were not ignored when this process began, as nohup and a
// shell's "&" make them. Asking for an ignored one would end that, for the command too.
func heard(signals ...os.Signal) []os.Signal { return slices.DeleteFunc(signals, signal.Ignored) }

// forwarded are the signals that the command of "sluice run" gets in place of this process.
func forwarded() []os.Signal {
	return heard(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
}

// forward passes signals on until stop is called. Those of a terminal's keys the
// command has already where it is in the foreground with this process; only what came
// before now, when there was no command, it has not.
func (a *app) forward(signals <-chan os.Signal) (to <-chan os.Signal, stop func()) {
	out, done := make(chan os.Signal, cap(signals)), make(chan struct{})
	for len(signals) > 0 {
		out <- <-signals
	}
	var task sync.WaitGroup
	task.Go(func() {
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if (s == syscall.SIGINT || s == syscall.SIGQUIT) && a.foreground() {
					continue
				}
				select {
				case out <- s:
				default: // as many wait for a command that takes none
				}
			}
		}
	})
	return out, func() { close(done); task.Wait() }
}

// inForeground tells whether this process has a terminal whose keys send signals to its group.
func inForeground() bool {
	terminal, err := os.Open("/dev/tty") // the one that it belongs to, whatever stdin is
	if err != nil {
		return false
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
