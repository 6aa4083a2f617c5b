package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Close stops workloads and agents, unmounts what they pinned and removes the
// namespaces. Anything that is then left on the machine is an error that names it.
func (c *Cluster) Close() error {
	var errs []error
	if c.world != nil {
		errs = append(errs, c.world())
	}
	for _, p := range c.processes() {
		errs = append(errs, p.stop())
	}
	// While the namespaces still exist, so that nobody else can have their numbers.
	errs = append(errs, c.inhabited())
	for _, s := range c.spaces {
		errs = append(errs, s.Close())
	}
	mounts, err := mountsBelow(c.Dir) // what the agents keep on purpose when they end
	errs = append(errs, err)
	for _, m := range slices.Backward(mounts) { // the last mounted first
		errs = append(errs, unix.Unmount(m, unix.MNT_DETACH))
	}
	return errors.Join(append(errs, os.RemoveAll(c.Dir), c.leftover())...)
}

// inhabited names the processes that are left in the lab's namespaces.
func (c *Cluster) inhabited() error {
	mounts, err := mountsBelow(c.Dir)
	if err != nil {
		return err
	}
	inodes := map[uint64]bool{}
	for _, m := range mounts {
		inode, err := inodeOf(m)
		if err != nil {
			return err
		}
		inodes[inode] = true
	}
	holders, err := holdersOf(inodes)
	errs := []error{err}
	for _, h := range holders {
		errs = append(errs, fmt.Errorf("left over: process in a namespace of the lab: %s", h))
	}
	return errors.Join(errs...)
}

// leftover names what a run left on the machine, or is nil.
func (c *Cluster) leftover() error {
	mounts, err := mountsBelow(c.Dir)
	errs := []error{err}
	for _, m := range mounts {
		errs = append(errs, fmt.Errorf("left over: mount %s", m))
	}
	after, err := ownLinks()
	errs = append(errs, err)
	for name := range after {
		if !c.before[name] {
			errs = append(errs, fmt.Errorf("left over: link %s", name))
		}
	}
	return errors.Join(errs...)
}

// ownLinks are the devices with sluice's mark in the namespace that the lab was
// started from, where it makes none.
func ownLinks() (map[string]bool, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := map[string]bool{}
	for _, l := range links {
		if l.Attrs().Alias == plan.LinkAlias {
			names[l.Attrs().Name] = true
		}
	}
	return names, nil
}

func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			list = append(list, f[4])
		}
	}
	return list, nil
}

// pidsIn are the processes that live in one of these namespaces.
func pidsIn(inodes map[uint64]bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		inode, err := inodeOf(filepath.Join("/proc", e.Name(), "ns", "net"))
		if err == nil && inodes[inode] { // otherwise gone meanwhile, or not ours
			list = append(list, pid)
		}
	}
	return list, nil
}

// holdersOf are these processes with their command lines.
func holdersOf(inodes map[uint64]bool) ([]string, error) {
	pids, err := pidsIn(inodes)
	var list []string
	for _, pid := range pids {
		command, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue
		}
		list = append(list, strconv.Itoa(pid)+" "+strings.ReplaceAll(string(command), "\x00", " "))
	}
	return list, err
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	return st.Ino, nil
}
