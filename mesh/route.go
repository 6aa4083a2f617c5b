package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// Route is a range that a node reaches by somebody else's route, or has an address in.
type Route struct {
	Prefix netip.Prefix
	By     string // printable: "route via 10.0.0.1 dev eth0"
}

// Limits of what a node's record says of routes.
const (
	routeLimit = 64
	routeGroup = 4 // longer prefixes in one range that a network could have are named each up to so many
)

// groupBits are how long a network's subnet is at most: longer routes are of interest by the
// range that they are in.
func groupBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 56
}

// ReportedRoutes is what a node's record says of its routes, in a fixed order. Many in one small
// range become one, so that what comes and goes there by the hundred does not change the record.
// Of too many those come first that concern a network or the pool, then the larger ones.
func (snap *Snapshot) ReportedRoutes(routes []Route) []Route {
	groups := map[netip.Prefix][]Route{}
	for _, r := range routes {
		if r.valid() {
			group := netip.PrefixFrom(r.Prefix.Addr(), min(r.Prefix.Bits(), groupBits(r.Prefix.Addr()))).Masked()
			groups[group] = append(groups[group], r)
		}
	}
	var list []Route
	for group, in := range groups {
		if len(in) > routeGroup {
			in = []Route{{group, "routes to parts of it"}}
		}
		list = append(list, in...)
	}
	slices.SortFunc(list, compareRoutes)
	list = slices.CompactFunc(list, func(a, b Route) bool { return a.Prefix == b.Prefix })
	if len(list) > routeLimit {
		aside := func(r Route) int {
			if snap.concerns(r.Prefix) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(list, func(a, b Route) int {
			return cmp.Or(cmp.Compare(aside(a), aside(b)), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
		})
		list = list[:routeLimit]
		slices.SortFunc(list, compareRoutes)
	}
	return list
}

func (snap *Snapshot) concerns(p netip.Prefix) bool {
	ingress := snap.Network(IngressNetwork)
	return overlapped(p, snap.Networks) != nil || ingress != nil && ingress.Pool.Overlaps(p)
}

func compareRoutes(a, b Route) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.By, b.By))
}

func (r Route) valid() bool {
	return r.Prefix.IsValid() && r.Prefix.Bits() > 0 && r.Prefix == r.Prefix.Masked() && !r.Prefix.Addr().Is4In6() && validHolder(r.By)
}

// validateRoutes refuses what ReportedRoutes would not give.
func (n *Node) validateRoutes() error {
	const do = "update the node that wrote it"
	if len(n.Routes) > routeLimit {
		return Refuse(BadRecord, do, "node %s names %d routes, the limit is %d", n.Name, len(n.Routes), routeLimit)
	}
	for i, r := range n.Routes {
		if !r.valid() || i > 0 && (compareRoutes(n.Routes[i-1], r) >= 0 || n.Routes[i-1].Prefix == r.Prefix) {
			return Refuse(BadRecord, do, "node %s names route %.60q by %.40q", n.Name, r.Prefix, r.By)
		}
	}
	return nil
}

// WithRoutes is the node with other routes.
func (n *Node) WithRoutes(routes []Route) *Node {
	c := n.clone()
	c.Routes = routes
	return c
}

// leadsInto is the node's first route to a part of p or all of it; nil where there is none. A
// route to more than that does not count: the blocks of a network are longer prefixes, which
// packets follow.
func (n *Node) leadsInto(p netip.Prefix) *Route {
	i := slices.IndexFunc(n.Routes, func(r Route) bool { return r.Prefix.Bits() >= p.Bits() && p.Contains(r.Prefix.Addr()) })
	if i < 0 {
		return nil
	}
	return &n.Routes[i]
}

// unrouted refuses a subnet that a node has a route into.
func (snap *Snapshot) unrouted(p netip.Prefix) error {
	for _, n := range snap.Nodes {
		if r := n.leadsInto(p); r != nil {
			return Refuse(SubnetTaken, "choose a subnet that no node leads elsewhere", "node %q has a route to %s (%s), which is in %s", n.Name, r.Prefix, r.By, p)
		}
	}
	return nil
}

// leadsElsewhere tells whether a node has a route to anything in p, or to more.
func (snap *Snapshot) leadsElsewhere(p netip.Prefix) bool {
	return slices.ContainsFunc(snap.Nodes, func(n *Node) bool {
		return slices.ContainsFunc(n.Routes, func(r Route) bool { return r.Prefix.Overlaps(p) })
	})
}

// RouteConflict is that a node has a route into a network's subnet, which came after the network:
// what is sent to an endpoint from there, or back through there, may go another way.
type RouteConflict struct {
	Network *Network
	Subnet  netip.Prefix
	Node    *Node
	Route   Route
}

// RouteConflicts are all of them, by node and route.
func (snap *Snapshot) RouteConflicts() []RouteConflict {
	type held struct {
		prefix  netip.Prefix
		network *Network
	}
	var subnets []held // which do not overlap
	for _, n := range snap.Networks {
		if n = snap.Network(n.ID); n == nil {
			continue
		}
		for _, p := range n.Subnets() {
			subnets = append(subnets, held{p, n})
		}
	}
	slices.SortFunc(subnets, func(a, b held) int { return a.prefix.Addr().Compare(b.prefix.Addr()) })
	var found []RouteConflict
	for _, node := range snap.Nodes {
		for _, r := range node.Routes {
			i, exact := slices.BinarySearchFunc(subnets, r.Prefix.Addr(), func(h held, a netip.Addr) int { return h.prefix.Addr().Compare(a) })
			if !exact {
				i--
			}
			if i >= 0 && subnets[i].prefix.Contains(r.Prefix.Addr()) && r.Prefix.Bits() >= subnets[i].prefix.Bits() {
				found = append(found, RouteConflict{subnets[i].network, subnets[i].prefix, node, r})
			}
		}
	}
	return found
}
