package kernel

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// namespace is an open network namespace and the sockets into it. One goroutine
// uses it at a time: Apply's.
type namespace struct {
	name string // the sandbox's
	path string // of the pinned mount; "" for the host
	fd   netns.NsHandle
	link *netlink.Handle // rtnetlink, sees this namespace
	nft  nftState
	ipvs ipvsState
}

// do runs f on a thread that is in the namespace. The thread is given back to
// the runtime only once it is home again; one that cannot return ends with its
// goroutine, so that no other code ever runs in the wrong namespace.
func (n *namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(n.fd); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", n.name, err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
