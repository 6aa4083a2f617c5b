package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// namespace is an open network namespace and the sockets into it. One goroutine
// uses it at a time: Apply's.
type namespace struct {
	name     string // the sandbox's
	kind     plan.Kind
	path     string // of the pinned mount; "" for the host
	fd       netns.NsHandle
	id       nsID
	link     *netlink.Handle // rtnetlink, sees this namespace
	nft      nftState
	ipvs     ipvsState
	flows    map[plan.Flow]bool       // to which there may be flows; nil: not known
	zones    map[plan.Zone]bool       // in which there may be flows; nil: not known
	targets  []plan.Flow              // that the last look was told; nil: look at all
	departed []plan.Flow              // those of flows that are no target any more
	foreign  reading[[]*foreignTable] // of the host alone, as is user
	user     reading[userState]
	own      *writers // told of programs that change rules; nil where nobody watches

	stages stages
}

// nsID identifies a namespace for as long as it lives.
type nsID struct{ dev, inode uint64 }

// do runs f on a thread that is in the namespace. The thread is given back to
// the runtime only once it is home again; one that cannot return ends with its
// goroutine, so that no other code ever runs in the wrong namespace.
func (n *namespace) do(f func() error) error { return within(n.fd, f) }

func within(target netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer home.Close()
		if err := netns.Set(target); err != nil {
			done <- fmt.Errorf("enter namespace: %w", err)
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

// openFile opens the network namespace that the file at path is. What the file is
// is asked before it is opened for reading: that would wait for ever at a pipe and
// may wake a device.
func openFile(path string) (netns.NsHandle, nsID, error) {
	named, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return netns.None(), nsID{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(named)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(named, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return netns.None(), nsID{}, errNotNamespace
	}
	fd, err := netns.GetFromPath(fmt.Sprintf("/proc/self/fd/%d", named))
	if err != nil {
		return netns.None(), nsID{}, fmt.Errorf("open namespace %s: %w", path, err)
	}
	id, err := identify(fd)
	if err != nil {
		return netns.None(), nsID{}, errors.Join(err, fd.Close())
	}
	return fd, id, nil
}

// openNamespace opens the namespace that is mounted at path.
func openNamespace(name string, kind plan.Kind, path string) (*namespace, error) {
	fd, id, err := openFile(path)
	if err != nil {
		return nil, err
	}
	n := &namespace{name: name, kind: kind, path: path, fd: fd, id: id}
	if n.link, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		n.close()
		return nil, fmt.Errorf("open rtnetlink in %s: %w", name, err)
	}
	return n, nil
}

func (n *namespace) close() {
	n.nft.close()
	n.ipvs.close()
	if n.link != nil {
		n.link.Close()
	}
	n.fd.Close()
}

// identify tells a network namespace's identity, and refuses what is none.
func identify(fd netns.NsHandle) (nsID, error) {
	kind, err := unix.IoctlRetInt(int(fd), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nsID{}, errNotNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		return nsID{}, fmt.Errorf("look at namespace: %w", err)
	}
	return nsID{st.Dev, st.Ino}, nil
}

var errNotNamespace = errors.New("it is not a network namespace")

// newNamespace makes an empty namespace with lo up and returns it open. Nothing
// but the handle keeps it alive.
func newNamespace() (netns.NsHandle, error) {
	fd := netns.None()
	home, err := netns.Get()
	if err != nil {
		return fd, fmt.Errorf("open own namespace: %w", err)
	}
	defer home.Close()
	err = within(home, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a namespace: %w", err)
		}
		if fd, err = netns.Get(); err != nil {
			return fmt.Errorf("open the new namespace: %w", err)
		}
		return loopbackUp()
	})
	if err != nil && fd.IsOpen() {
		fd.Close()
	}
	return fd, err
}

// loopbackUp sets lo up in the thread's namespace; IPVS refuses destinations without it.
func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return h.LinkSetUp(lo)
}

// mount pins an open namespace as a sandbox, making the file.
func (k *Kernel) mount(fd netns.NsHandle, sandbox string) error {
	path := k.Path(sandbox)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	k.stages.reach("file made")
	source := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("pin namespace at %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// unmount is the inverse of mount; a file that is not mounted is removed too.
func (k *Kernel) unmount(sandbox string) error {
	path := k.Path(sandbox)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("unpin namespace at %s: %w", path, err)
	}
	k.stages.reach("unmounted")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
