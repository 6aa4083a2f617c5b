package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// BadNamespace is the reason of a refusal by Pin.
const BadNamespace plan.Reason = "BadNamespace"

// Pin mounts the network namespace that the file at path is (a bind mount, or
// /proc/PID/ns/net) as the sandbox of that name, so that it lives as long as the
// sandbox stays in the plan. It refuses what is no network namespace, the host's
// own, one of ours, and one that is pinned already. Safe beside Apply.
func (k *Kernel) Pin(sandbox, path string) error {
	bad := func(why string) error {
		return &Refusal{BadNamespace, fmt.Sprintf("%s: %s", path, why), "give the network namespace of a workload: --netns /proc/PID/ns/net or a file made by ip netns add"}
	}
	fd, id, err := openFile(path)
	if err != nil {
		return bad(reasonText(err))
	}
	defer fd.Close()
	if id == k.host.id {
		return bad("it is the host's own network namespace")
	}
	owner, err := k.pinned(id)
	if err != nil {
		return err
	}
	if owner != "" {
		return bad("it is in use as sandbox " + owner)
	}
	return k.mount(fd, sandbox)
}

// PinPID pins the network namespace of a process.
func (k *Kernel) PinPID(sandbox string, pid int) error {
	return k.Pin(sandbox, "/proc/"+strconv.Itoa(pid)+"/ns/net")
}

// Pinned tells whether a sandbox's namespace is there. One that cannot be looked at
// counts: an endpoint is given up only where it is surely gone.
func (k *Kernel) Pinned(sandbox string) bool {
	fd, _, err := openFile(k.Path(sandbox))
	if err == nil {
		fd.Close()
	}
	return !absent(err)
}

// pinned names the sandbox that a namespace is mounted as; "" for none.
func (k *Kernel) pinned(id nsID) (string, error) {
	entries, err := os.ReadDir(k.netnsDir)
	if err != nil && !os.IsNotExist(err) {
		return "", fmt.Errorf("list sandboxes: %w", err)
	}
	for _, e := range entries {
		fd, have, err := openFile(k.Path(e.Name()))
		if err != nil {
			continue
		}
		fd.Close()
		if have == id {
			return e.Name(), nil
		}
	}
	return "", nil
}

// reasonText is the kernel's word without the path, which the caller says.
func reasonText(err error) string {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err.Error()
	}
	return err.Error()
}
