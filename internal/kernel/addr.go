package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// addrOf translates the library's address; 4-in-6 forms become IPv4.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// observeAddrs lists the addresses on our devices, but for link-local ones that
// the kernel gave: of those only the gateway's is of our making.
func (n *namespace) observeAddrs() ([]plan.Addr, error) {
	names, err := n.indices()
	if err != nil {
		return nil, err
	}
	list, err := retryDump(func() ([]netlink.Addr, error) { return n.link.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", n.name, err)
	}
	var found []plan.Addr
	for _, a := range list {
		p := prefixOf(a.IPNet)
		name, ours := names[a.LinkIndex]
		if ours && (!p.Addr().IsLinkLocalUnicast() || p.Addr().Is4() || p.Addr() == plan.Gateway6()) {
			found = append(found, plan.Addr{Link: name, Prefix: p})
		}
	}
	return found, nil
}

func (n *namespace) doAddr(verb Verb, a plan.Addr) error {
	link, err := n.device(a.Link)
	if err != nil {
		return orAbsent(verb, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(a.Prefix)}
	if verb == Delete {
		return orAbsent(verb, n.link.AddrDel(link, addr))
	}
	if a.Prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // ours by allocation; a tentative address would refuse packets for a second
	}
	return n.link.AddrReplace(link, addr)
}

// orAbsent turns "it is not there" into success for a deletion.
func orAbsent(verb Verb, err error) error {
	if verb != Delete || err == nil {
		return err
	}
	if _, noLink := errors.AsType[netlink.LinkNotFoundError](err); noLink {
		return nil
	}
	if _, refused := errors.AsType[*Refusal](err); refused { // ours is gone, another's has its name
		return nil
	}
	for _, absent := range []syscall.Errno{syscall.ENOENT, syscall.ESRCH, syscall.EADDRNOTAVAIL, syscall.ENODEV} {
		if errors.Is(err, absent) {
			return nil
		}
	}
	return err
}
