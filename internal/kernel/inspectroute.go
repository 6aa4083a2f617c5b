package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// occupied tells the doctor what the host reaches by others.
func (i *inspector) occupied() error {
	found, err := i.host.occupied()
	i.facts.Occupied = append(i.facts.Occupied, found...)
	return err
}

// Occupied are the prefixes that the host reaches by routes of others, and its own addresses
// that no such route is around. Default routes and link-local prefixes of IPv6, which every
// device has, are none. Not beside Apply.
func (k *Kernel) Occupied() ([]doctor.Occupied, error) { return k.host.occupied() }

func (n *namespace) occupied() ([]doctor.Occupied, error) {
	links, err := n.list()
	if err != nil {
		return nil, err
	}
	names, ours := map[int]string{}, map[int]bool{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		ours[l.Attrs().Index] = l.Attrs().Alias == plan.LinkAlias
	}
	var found []doctor.Occupied
	seen := map[netip.Prefix]bool{}
	add := func(p netip.Prefix, by string) {
		if !seen[p] {
			seen[p] = true
			found = append(found, doctor.Occupied{Prefix: p, By: by})
		}
	}
	routes, err := retryDump(func() ([]netlink.Route, error) { return n.link.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		p, isRoute := occupies(r)
		if isRoute && !ours[r.LinkIndex] {
			add(p, routeText(r, names))
		}
	}
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return n.link.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		if ip := p.Addr(); ours[a.LinkIndex] || ip.IsLoopback() || ip.Is6() && ip.IsLinkLocalUnicast() || seen[p.Masked()] {
			continue
		}
		add(netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), "address of "+names[a.LinkIndex])
	}
	return found, nil
}

// occupies is what a route leads to; false where that says nothing.
func occupies(r netlink.Route) (p netip.Prefix, isRoute bool) {
	if r.Dst == nil || r.Protocol == plan.RouteProtocol || r.Type == unix.RTN_MULTICAST {
		return p, false
	}
	p = prefixOf(r.Dst).Masked()
	ip := p.Addr()
	everywhere := p.Bits() == 0 || ip.IsMulticast() || ip.Is6() && ip.IsLinkLocalUnicast()
	return p, !everywhere
}

// routeText names a route: "route via 10.0.0.1 dev eth0".
func routeText(r netlink.Route, names map[int]string) string {
	text := "route"
	if len(r.Gw) > 0 {
		text += " via " + r.Gw.String()
	}
	if name := names[r.LinkIndex]; name != "" {
		text += " dev " + name
	}
	if text == "route" { // of several next hops, or unreachable and the like
		text += " without a device of its own"
	}
	return text
}
