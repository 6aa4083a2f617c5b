package cluster

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// Freeze stops every process of a node where it stands, its workloads included: only its
// kernel goes on. Thaw lets them go on; to a node that was not frozen it does nothing.
func (c *Cluster) Freeze(n *Node) error { return c.signalAll(n, syscall.SIGSTOP) }

// Thaw is the inverse of Freeze.
func (c *Cluster) Thaw(n *Node) error { return c.signalAll(n, syscall.SIGCONT) }

func (c *Cluster) signalAll(n *Node, s syscall.Signal) error {
	spaces := []*space.Space{n.Space}
	for _, e := range c.Endpoints {
		if e.Node == n {
			spaces = append(spaces, e.Space)
		}
	}
	inodes := map[uint64]bool{}
	for _, place := range spaces {
		inode, err := inodeOf(place.Path)
		if err != nil {
			return err
		}
		inodes[inode] = true
	}
	pids, err := pidsIn(inodes)
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("signal process %d of %s: %w", pid, n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Unplug takes a node's link down at the far end, as a cable that is pulled; PlugIn puts it back.
func (c *Cluster) Unplug(n *Node) error { return c.setPort(n, (*netlink.Handle).LinkSetDown) }

// PlugIn is the inverse of Unplug.
func (c *Cluster) PlugIn(n *Node) error { return c.setPort(n, (*netlink.Handle).LinkSetUp) }

func (c *Cluster) setPort(n *Node, set func(*netlink.Handle, netlink.Link) error) error {
	h, err := c.lan.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName("to-" + n.Name)
	if err != nil {
		return fmt.Errorf("find the link of %s: %w", n.Name, err)
	}
	if err := set(h, port); err != nil {
		return fmt.Errorf("change the link of %s: %w", n.Name, err)
	}
	return nil
}
