package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

type routeID struct {
	local bool
	link  string // of a local one: an address may be the host's own on several devices
	dst   netip.Prefix
	table uint32
}

func routeKey(r plan.Route) routeID {
	if r.Kind == plan.RouteLocal {
		return routeID{local: true, link: r.Link, dst: r.Dst}
	}
	return routeID{dst: r.Dst, table: r.Table}
}

// localPriority is the metric of the first local route: with an equal one a second device
// could not have the same address. Each has that of its index.
const localPriority = 1024

// observeRoutes lists the routes with our protocol number, in all tables.
func (n *namespace) observeRoutes() ([]plan.Route, error) {
	links, err := n.list()
	if err != nil {
		return nil, err
	}
	names, others := map[int]string{}, map[int]bool{}
	for _, l := range links {
		names[l.Attrs().Index], others[l.Attrs().Index] = l.Attrs().Name, n.others(l)
	}
	var found []plan.Route
	for _, af := range []int{unix.AF_INET, unix.AF_INET6} {
		filter := &netlink.Route{Protocol: plan.RouteProtocol, Table: unix.RT_TABLE_UNSPEC}
		list, err := retryDump(func() ([]netlink.Route, error) {
			return n.link.RouteListFiltered(af, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes of %s: %w", n.name, err)
		}
		for _, r := range list {
			own := n.kind == plan.KindEndpoint && plan.IsOwnTable(uint32(r.Table))
			if r.Table != unix.RT_TABLE_MAIN && r.Table != unix.RT_TABLE_LOCAL && !own {
				continue // somebody else's, who uses the same number
			}
			if others[r.LinkIndex] || n.kind == plan.KindEndpoint && r.LinkIndex == 0 {
				continue
			}
			found = append(found, routeOf(r, names[r.LinkIndex], af))
		}
	}
	return found, nil
}

func routeOf(r netlink.Route, link string, af int) plan.Route {
	seen := plan.Route{Kind: plan.RouteDev, Link: link}
	if plan.IsOwnTable(uint32(r.Table)) {
		seen.Table = uint32(r.Table)
	}
	switch {
	case r.Dst != nil:
		seen.Dst = prefixOf(r.Dst)
	case af == unix.AF_INET:
		seen.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default:
		seen.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	switch {
	case r.Type == unix.RTN_UNREACHABLE:
		seen.Kind, seen.Link = plan.RouteUnreachable, ""
	case r.Type == unix.RTN_LOCAL:
		seen.Kind = plan.RouteLocal
	case len(r.Gw) > 0:
		seen.Kind, seen.Via = plan.RouteVia, addrOf(r.Gw)
	}
	return seen
}

func (n *namespace) doRoute(verb Verb, want plan.Route) error {
	r := &netlink.Route{
		Dst: ipNet(want.Dst), Protocol: plan.RouteProtocol, Table: unix.RT_TABLE_MAIN,
		Family: family(want.Dst.Addr()), Type: unix.RTN_UNICAST, Scope: netlink.SCOPE_UNIVERSE,
	}
	if want.Table != 0 {
		r.Table = int(want.Table)
	}
	if want.Link != "" {
		link, err := n.device(want.Link)
		if verb == Delete { // a route with our number may be on any device of the host
			link, err = n.link.LinkByName(want.Link)
		}
		if err != nil {
			return orAbsent(verb, err)
		}
		r.LinkIndex = link.Attrs().Index
	}
	switch want.Kind {
	case plan.RouteVia:
		r.Gw, r.Flags = want.Via.AsSlice(), int(netlink.FLAG_ONLINK)
	case plan.RouteDev:
		r.Scope = netlink.SCOPE_LINK
	case plan.RouteLocal:
		r.Type, r.Table, r.Scope = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
		if verb != Delete { // any metric then: earlier versions gave none
			r.Priority = localPriority + r.LinkIndex
		}
	case plan.RouteUnreachable:
		r.Type = unix.RTN_UNREACHABLE
	}
	switch verb {
	case Delete:
		return orAbsent(verb, n.link.RouteDel(r))
	case Replace:
		return n.link.RouteReplace(r)
	default:
		err := n.link.RouteAdd(r)
		if errors.Is(err, syscall.EEXIST) && n.departing(r) {
			return n.link.RouteReplace(r)
		}
		if errors.Is(err, syscall.EEXIST) {
			// Not ours, or it had been observed: replacing it would take somebody's way.
			return &Refusal{plan.KernelRefused, fmt.Sprintf("a route to %s that is not ours is in %s", want.Dst, n.name), "remove that route"}
		}
		return err
	}
}

// departing tells whether what is in a route's way is the kernel's own for the subnet of an
// address on a device of ours: the plan has another way to that subnet, so the address goes, but
// only after what is new was added.
func (n *namespace) departing(r *netlink.Route) bool {
	filter := &netlink.Route{Dst: r.Dst, Protocol: unix.RTPROT_KERNEL, Table: unix.RT_TABLE_MAIN}
	found, err := retryDump(func() ([]netlink.Route, error) {
		return n.link.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil || len(found) == 0 {
		return false
	}
	for _, f := range found {
		l, err := n.link.LinkByIndex(f.LinkIndex)
		if err != nil || !n.ours(l) {
			return false
		}
	}
	return true
}
