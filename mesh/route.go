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

// group is the range that a route is told with.
func (r Route) group() netip.Prefix {
	return netip.PrefixFrom(r.Prefix.Addr(), min(r.Prefix.Bits(), groupBits(r.Prefix.Addr()))).Masked()
}

// ReportedRoutes is what a node's record says of its routes, in a fixed order. Many in one small
// range become one, so that what comes and goes there by the hundred does not change the record.
// Of too many those come first that concern a network or the pool, then the larger ones.
func (snap *Snapshot) ReportedRoutes(routes []Route) []Route {
	sorted := make([]Route, 0, len(routes))
	for _, r := range routes {
		if r.valid() {
			sorted = append(sorted, r)
		}
	}
	slices.SortFunc(sorted, compareRoutes)
	var list []Route
	for begin := 0; begin < len(sorted); { // what is in one group follows one another
		group, end := sorted[begin].group(), begin+1
		for end < len(sorted) && sorted[end].group() == group {
			end++
		}
		if in := sorted[begin:end]; len(in) > routeGroup {
			list = append(list, Route{group, "routes to parts of it"})
		} else {
			list = append(list, in...)
		}
		begin = end
	}
	slices.SortFunc(list, compareRoutes)
	list = slices.CompactFunc(list, func(a, b Route) bool { return a.Prefix == b.Prefix })
	if len(list) > routeLimit {
		list = slices.Clone(snap.foremost(list)[:routeLimit])
		slices.SortFunc(list, compareRoutes)
	}
	return list
}

// foremost puts those first that concern a network or the pool, then the larger ones.
func (snap *Snapshot) foremost(routes []Route) []Route {
	var ours ranges // those of networks that are built overlap none
	for _, n := range snap.networks {
		for _, p := range n.Subnets() {
			ours.add(p, n.ID)
		}
	}
	ingress := snap.Network(IngressNetwork)
	concerns := func(p netip.Prefix) bool {
		_, overlaps := ours.overlapped(p)
		return overlaps || ingress != nil && ingress.Pool.Overlaps(p)
	}
	var sorted, aside []Route
	for _, r := range routes {
		if concerns(r.Prefix) {
			sorted = append(sorted, r)
		} else {
			aside = append(aside, r)
		}
	}
	larger := func(a, b Route) int { return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()) }
	slices.SortStableFunc(sorted, larger)
	slices.SortStableFunc(aside, larger)
	return append(sorted, aside...)
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
