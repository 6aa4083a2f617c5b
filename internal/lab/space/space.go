// Package space makes and enters network namespaces for tests: each is a bind
// mount at a path of the test's own choosing, so that several runs on one machine
// never meet and "nsenter --net=PATH" works on all of them.
package space

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Space is an open network namespace. It may be used by several goroutines.
type Space struct {
	Path   string
	handle netns.NsHandle
	mine   bool // Close removes the mount
}

// New makes a namespace, pins it at path and sets lo up in it.
func New(path string) (*Space, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	pin := func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}
	if err := onThread(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("make namespace %s: %w", path, err), os.Remove(path))
	}
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	s.mine = true
	return s, s.loopbackUp()
}

// Open opens a namespace that somebody else keeps.
func Open(path string) (*Space, error) {
	handle, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return &Space{Path: path, handle: handle}, nil
}

// Close gives the namespace back; one that New made goes with its last process.
func (s *Space) Close() error {
	err := s.handle.Close()
	if !s.mine {
		return err
	}
	return errors.Join(err, unix.Unmount(s.Path, unix.MNT_DETACH), os.Remove(s.Path))
}

// Do runs f on a thread that is in the namespace. Sockets that f opens and
// processes that it starts stay there. f must not start goroutines that do so.
func (s *Space) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(s.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", s.Path, err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which afterwards goes home, or ends.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- errors.Join(err, home.Close())
	}()
	return <-done
}

// Start starts cmd in the namespace.
func (s *Space) Start(cmd *exec.Cmd) error { return s.Do(cmd.Start) }

// Run runs a program in the namespace and returns what it printed.
func (s *Space) Run(ctx context.Context, name string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Start(cmd); err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// Links opens rtnetlink in the namespace; the caller closes it.
func (s *Space) Links() (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(s.handle, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", s.Path, err)
	}
	return h, nil
}

// ForgetFlows empties the namespace's conntrack table.
func (s *Space) ForgetFlows() error {
	h, err := netlink.NewHandleAt(s.handle, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", s.Path, err)
	}
	defer h.Close()
	if err := h.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("forget flows in %s: %w", s.Path, err)
	}
	return nil
}

// FD is the namespace as netlink wants it: where a device's other end goes.
func (s *Space) FD() netlink.NsFd { return netlink.NsFd(int(s.handle)) }

func (s *Space) loopbackUp() error {
	h, err := s.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in %s: %w", s.Path, err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up in %s: %w", s.Path, err)
	}
	return nil
}
