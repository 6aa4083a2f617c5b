package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Sender is who sends a flow of the mesh, as its endpoint sees it.
type Sender struct {
	Proto  string // tcp, udp, sctp
	Client netip.AddrPort
}

// Lost signals, at most once until it is taken, that the host lost an address. It is
// never closed.
func (k *Kernel) Lost() <-chan struct{} { return k.monitor.lost }

// ForgetLost deletes the flows of the mesh, in the host and in ingress-sbox, that were
// dialled at an address which the host has no longer, and returns their senders: the
// nodes of their endpoints have to forget them too. Were they kept and the address came
// back, the connections that lived on elsewhere would not fit them. Safe beside Apply.
func (k *Kernel) ForgetLost() ([]Sender, error) {
	flows, err := flowsOf(k.host.fd)
	if err != nil {
		return nil, fmt.Errorf("look for flows of lost addresses: %w", err)
	}
	lost, err := k.lostFlows(flows)
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	if err := forgetFlows(k.host.fd, lost); err != nil {
		return nil, err
	}
	return k.forgetBehind(lost)
}

// lostFlows are those that the host sends to ingress-sbox and whose address is not its own.
func (k *Kernel) lostFlows(flows []tracked) ([]tracked, error) {
	local := localCache{k: k, known: map[netip.Addr]bool{}}
	var lost []tracked
	for i := range flows {
		f := &flows[i]
		if !plan.OnUplink(f.source.Addr()) || !f.translated() || plan.OnUplink(f.to.Addr()) {
			continue
		}
		own, err := local.is(f.to.Addr())
		if err != nil {
			return nil, err
		}
		if !own {
			lost = append(lost, *f)
		}
	}
	return lost, nil
}

// isLocal asks the routing tables, as the rule that captured the flow did.
func (k *Kernel) isLocal(a netip.Addr) (bool, error) {
	if a.IsLoopback() {
		return true, nil
	}
	h, err := netlink.NewHandleAt(k.host.fd, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("open rtnetlink: %w", err)
	}
	defer h.Close()
	routes, err := h.RouteGet(a.AsSlice())
	for _, none := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} { // as kinds of routes say it
		if errors.Is(err, none) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("look for route to %s: %w", a, err)
	}
	return len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil
}

// forgetBehind deletes what ingress-sbox tracks of flows that the host has forgotten. IPVS
// tracks its own, and keeps the sender as the host sent it.
func (k *Kernel) forgetBehind(lost []tracked) ([]Sender, error) {
	type end struct {
		proto    uint8
		from, to netip.AddrPort
	}
	senders := make(map[end]netip.AddrPort, len(lost))
	for _, f := range lost {
		senders[end{f.proto, f.dst, f.source}] = f.dst
	}
	var forget []tracked
	err := k.withSandbox(plan.IngressSandbox, func(where netns.NsHandle) error {
		flows, err := flowsOf(where)
		if err != nil {
			return err
		}
		for _, f := range flows {
			if e := (end{f.proto, f.from, f.to}); senders[e].IsValid() {
				senders[e] = f.dst
				forget = append(forget, f)
			}
		}
		return forgetFlows(where, forget)
	})
	list := make([]Sender, 0, len(senders))
	for e, client := range senders {
		list = append(list, Sender{protoName(e.proto), client})
	}
	return list, err
}

// ForgetOver deletes, in the network sandbox named so, the flows of one zone that these
// senders send. That there is no such sandbox is success. Safe beside Apply.
func (k *Kernel) ForgetOver(sandbox string, zone uint16, senders []Sender) error {
	over := make(map[Sender]bool, len(senders))
	for _, s := range senders {
		over[s] = true
	}
	err := k.withSandbox(sandbox, func(where netns.NsHandle) error {
		return forgetZone(where, zone, func(f *tracked) bool { return over[Sender{protoName(f.proto), f.from}] })
	})
	if err != nil {
		return fmt.Errorf("forget flows of zone %d in %s: %w", zone, sandbox, err)
	}
	return nil
}

// withSandbox runs f with a sandbox's namespace, and not at all where there is none.
func (k *Kernel) withSandbox(sandbox string, f func(netns.NsHandle) error) error {
	fd, _, err := openFile(k.Path(sandbox))
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	return f(fd)
}

func protoName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	default:
		return ""
	}
}
