package agent

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// Machine is what the agent needs of its node's kernel. Implemented by
// *kernel.Kernel. The agent makes one call at a time, but for Path, Pinned and Drifted.
type Machine interface {
	kernel.Applier
	// Drifted carries what others changed of what is ours, as far as the kernel tells.
	// It is never closed.
	Drifted() <-chan []kernel.Drift
	// Echo makes what other nodes' kernels are asked with.
	Echo() kernel.Echoer
	// Knock tells whether the kernel of another node answers at a TCP port. May be called
	// beside the others.
	Knock(ctx context.Context, to netip.AddrPort) (answered bool, err error)
	// Pin keeps the network namespace that the file is as the sandbox name. It is
	// refused where the file is none, or is the host's own.
	Pin(name, path string) error
	// PinPID does so with a process's namespace.
	PinPID(name string, pid int) error
	// Pinned tells whether the sandbox's namespace is there.
	Pinned(name string) bool
	// Path is where the sandbox's namespace is, or would be, mounted.
	Path(name string) string
	// ListenNames opens UDP and TCP sockets in the sandbox's namespace, or neither;
	// ListenNamesAside leaves the port free there for the workload. May be called beside the
	// others.
	ListenNames(sandbox string, at netip.AddrPort) (net.PacketConn, net.Listener, error)
	ListenNamesAside(sandbox string, at netip.AddrPort) (net.PacketConn, net.Listener, error)
	// Advertised are the host's devices that live on router advertisements and would
	// stop listening to them when the host forwards.
	Advertised() ([]string, error)
	// OwnBridges are the host's bridges whose subnets other nodes may have too.
	OwnBridges() ([]string, error)
	// Held are those of the ports that somebody else on the host has.
	Held(ports []kernel.Port) ([]kernel.Holding, error)
	// Captured are the ports that the host captures now, whoever planned it.
	Captured() ([]kernel.Port, error)
	// Unrouted are the host's devices that forwarded nothing before this agent ran, by family.
	Unrouted() (four, six []string, err error)
	// Occupied are the prefixes that the host reaches by others' routes, or has addresses in.
	Occupied() ([]doctor.Occupied, error)
	// HostAddrs are the host's own addresses with their devices.
	HostAddrs() ([]plan.Addr, error)
	// Underlay finds this node's address and its device's MTU in bytes; the zero
	// address means the source address of the default route.
	Underlay(advertise netip.Addr) (addr netip.Addr, mtu int, err error)
	// Moved signals that what Underlay returns may have changed. It is never closed.
	Moved() <-chan struct{}
	// Lost signals that the host lost an address. It is never closed.
	Lost() <-chan struct{}
	// ForgetLost deletes the flows that were dialled at an address which the host has no
	// longer, and returns their senders. May be called beside the others.
	ForgetLost() ([]kernel.Sender, error)
	// ForgetOver deletes flows of one zone in a network sandbox, by their senders. May be
	// called beside the others.
	ForgetOver(sandbox string, zone uint16, senders []kernel.Sender) error
	Close() error
}

// system is how the agent reaches what is outside of it; tests give another.
type system struct {
	missing func() []string // what the running kernel lacks, in words
	hasIPVS func() bool
	open    func(runDir string) (Machine, error)
	watch   func(ctx context.Context, pid int) (<-chan struct{}, error) // closed when the process has ended
	now     func() time.Time
	inspect func(kernel.Inspection) doctor.Facts // looks at the host
	resolv  resolvFiles

	supervisor func() (*supervisor, error) // nil where there is none
}

func realSystem() system {
	return system{
		missing: kernel.Missing,
		hasIPVS: kernel.HasIPVS,
		open: func(runDir string) (Machine, error) {
			k, err := kernel.New(runDir)
			if err != nil {
				return nil, err // not k: a nil *Kernel would be a Machine that is not nil
			}
			return k, nil
		},
		watch:      kernel.WatchPID,
		now:        time.Now,
		inspect:    kernel.Inspect,
		resolv:     hostFiles(),
		supervisor: ownSupervisor,
	}
}
