package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// resolvConf is a file that a Workload's command finds as /etc/resolv.conf; the zero value is
// none. It lies over the host's own, in a mount namespace that the command has for itself.
type resolvConf struct {
	file   string
	failed func(error)
}

const (
	hostConf  = "/etc/resolv.conf"
	confAgain = time.Second
)

// Resolve lets the command have the file for its /etc/resolv.conf; the host's stays as it is.
// What the command mounts is then seen by it and its children alone. Where that cannot be done
// the command runs all the same, and failed is told why from another goroutine.
func (w *Workload) Resolve(file string, failed func(error)) {
	w.conf = resolvConf{file, failed}
}

// within runs f, which starts the command, on a thread that is where the command is to be.
func (w *Workload) within(f func() error) error {
	if w.conf.file == "" {
		return within(w.fd, f)
	}
	done := make(chan error, 1)
	go func() {
		// The thread cannot come home from a mount namespace, so that it ends with its goroutine.
		runtime.LockOSThread()
		if err := w.conf.begin(); err != nil {
			w.conf.failed(err)
			w.conf.file = "" // what is mounted now could be mounted for all
		}
		if err := netns.Set(w.fd); err != nil {
			done <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		if err := w.conf.cover(); err != nil && !errors.Is(err, fs.ErrNotExist) { // a host's own may come
			w.conf.failed(err)
		}
		done <- f()
	}()
	return <-done
}

// begin gives the calling thread mounts of its own. The host's go on coming in, and none goes out.
func (c resolvConf) begin() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keep mounts to the command: %w", err)
	}
	return nil
}

// cover mounts the file, if it is not there already.
func (c resolvConf) cover() error {
	if c.file == "" {
		return nil
	}
	mine, err := os.Stat(c.file)
	if err != nil {
		return err
	}
	have, err := os.Stat(hostConf)
	if err != nil {
		return err
	}
	if os.SameFile(mine, have) {
		return nil
	}
	if err := unix.Mount(c.file, hostConf, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", hostConf, err)
	}
	return nil
}

// hold keeps the thread, and the file where it is, until wait returns: who replaces the host's
// file takes away, in all mount namespaces, what lay over it.
func (c resolvConf) hold(wait func() error) error {
	if c.file == "" {
		return wait()
	}
	ended := make(chan error, 1)
	go func() { ended <- wait() }()
	again := time.NewTicker(confAgain)
	defer again.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-again.C:
			_ = c.cover() // it is tried again
		}
	}
}
