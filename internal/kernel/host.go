package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// NoUnderlay is the reason of a refusal by Underlay.
const NoUnderlay plan.Reason = "NoUnderlay"

// Moved signals, at most once until it is taken, that what Underlay returns may have
// changed. It is never closed.
func (k *Kernel) Moved() <-chan struct{} { return k.monitor.moved }

// Underlay returns the address that other nodes reach and the MTU, in bytes, of
// the device that has it. Without advertise it is the source address of the
// default route, IPv4 first.
func (k *Kernel) Underlay(advertise netip.Addr) (netip.Addr, int, error) {
	const do = "start the agent with --advertise ADDR, an address of this host that the other nodes reach"
	if !advertise.IsValid() {
		source, err := k.defaultSource()
		if err != nil {
			return source, 0, err
		}
		if !source.IsValid() {
			return source, 0, &Refusal{NoUnderlay, "this host has no default route to take an address from", do}
		}
		advertise = source
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return k.host.link.AddrList(nil, family(advertise)) })
	if err != nil {
		return advertise, 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addrOf(a.IP) != advertise {
			continue
		}
		l, err := k.host.link.LinkByIndex(a.LinkIndex)
		if err != nil {
			return advertise, 0, fmt.Errorf("find the device of %s: %w", advertise, err)
		}
		return advertise, l.Attrs().MTU, nil
	}
	return advertise, 0, &Refusal{NoUnderlay, fmt.Sprintf("no device of this host has the address %s", advertise), do}
}

// defaultSource asks the routing table which address would leave towards
// somewhere far; no packet is sent.
func (k *Kernel) defaultSource() (netip.Addr, error) {
	for _, af := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := retryDump(func() ([]netlink.Route, error) {
			return k.host.link.RouteListFiltered(af, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return netip.Addr{}, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Type != unix.RTN_UNICAST || len(r.Gw) == 0 {
				continue
			}
			answers, err := k.host.link.RouteGet(r.Gw)
			if err == nil && len(answers) > 0 && len(answers[0].Src) > 0 {
				return addrOf(answers[0].Src), nil
			}
		}
	}
	return netip.Addr{}, nil
}

// OwnBridges lists the host's bridges whose subnets mean something on this host
// only, as Docker's do: bridges with an address of their own, no default route,
// and no port but veth and tap devices. A bridge that a network card is in has
// real clients behind it. Safe beside Apply.
func (k *Kernel) OwnBridges() ([]string, error) {
	links, err := k.host.list()
	if err != nil {
		return nil, err
	}
	outward := map[int]bool{}
	for _, l := range links {
		if t := l.Type(); l.Attrs().MasterIndex != 0 && t != "veth" && t != "tuntap" {
			outward[l.Attrs().MasterIndex] = true
		}
	}
	routes, err := retryDump(func() ([]netlink.Route, error) { return k.host.link.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			outward[r.LinkIndex] = true
		}
	}
	var own []string
	for _, l := range links {
		if l.Type() != "bridge" || outward[l.Attrs().Index] {
			continue
		}
		addrs, err := k.host.link.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			if !a.IP.IsLinkLocalUnicast() {
				own = append(own, l.Attrs().Name)
				break
			}
		}
	}
	return own, nil
}

// Advertised lists the devices of the host that learn their routes from router
// advertisements now and would stop to when IPv6 forwarding goes on: those with
// accept_ra 1 that do not forward yet, but for bridges and pairs, on which a
// workload could play the router.
func (k *Kernel) Advertised() ([]string, error) {
	links, err := k.host.list()
	if err != nil {
		return nil, err
	}
	var found []string
	err = k.host.do(func() error {
		for _, l := range links {
			name := l.Attrs().Name
			if t := l.Type(); t == "bridge" || t == "veth" || t == "tuntap" || name == "lo" {
				continue
			}
			ra, forwards := ipv6Setting(name, "accept_ra"), ipv6Setting(name, "forwarding")
			if ra == "1" && forwards == "0" {
				found = append(found, name)
			}
		}
		return nil
	})
	return found, err
}

// ipv6Setting reads a device's setting in the thread's namespace; "" where it has none.
func ipv6Setting(device, name string) string {
	b, err := os.ReadFile(path.Join(procSys, "net/ipv6/conf", device, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// HostAddrs lists the addresses of the host itself, ours included, with their
// devices. Safe beside Apply.
func (k *Kernel) HostAddrs() ([]plan.Addr, error) {
	links, err := k.host.list()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	list, err := retryDump(func() ([]netlink.Addr, error) { return k.host.link.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addrs := make([]plan.Addr, len(list))
	for i, a := range list {
		addrs[i] = plan.Addr{Link: names[a.LinkIndex], Prefix: prefixOf(a.IPNet)}
	}
	return addrs, nil
}

// Missing says in words which features of the kernel the mesh cannot do without and
// this kernel lacks, each with what to do. IP_VS is none of them (see HasIPVS).
func Missing() []string {
	var missing []string
	if !hasSocketDump() {
		missing = append(missing, "lists of sockets: load the modules tcp_diag and udp_diag")
	}
	if _, err := os.Stat(path.Join(procSys, "net/ipv6")); err != nil {
		missing = append(missing, "IPv6: boot without ipv6.disable=1")
	} else if err := tryRules(); err != nil {
		missing = append(missing, fmt.Sprintf("policy routing (%v): %s", err, rulesAdvice))
	}
	return missing
}

const rulesAdvice = "use a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES (Debian's has both)"

// tryRules tells whether routing can be asked by rules. Where it cannot, a route of a table would be one of the main
// table.
func tryRules() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if _, err := retryDump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) }); err != nil {
			return fmt.Errorf("list rules: %w", err)
		}
	}
	return nil
}

// WatchPID returns a channel that is closed when the process has ended, or when
// ctx has. A process that is not there counts as ended.
func WatchPID(ctx context.Context, pid int) (<-chan struct{}, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	done := make(chan struct{})
	if err == unix.ESRCH {
		close(done)
		return done, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		defer close(done)
		defer unix.Close(fd)
		const tick = 500 // ms: how late the end of ctx is seen
		for ctx.Err() == nil {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, tick)
			if n > 0 || err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	return done, nil
}
