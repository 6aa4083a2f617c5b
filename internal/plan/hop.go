package plan

import "net/netip"

// Hop is a next hop whose MAC address is known without asking.
type Hop struct {
	Link       string
	MAC        MAC
	Via4, Via6 netip.Addr
}

// TowardsBlock adds to s the permanent neighbours of a hop and its routes to
// one address block: what it takes to reach all endpoints in the block.
func TowardsBlock(s *Sandbox, hop Hop, v4, v6 netip.Prefix) {
	s.Neighs = append(
		s.Neighs,
		Neigh{Link: hop.Link, IP: hop.Via4, MAC: hop.MAC},
		Neigh{Link: hop.Link, IP: hop.Via6, MAC: hop.MAC},
	)
	s.Routes = append(
		s.Routes,
		Route{Kind: RouteVia, Dst: v4, Via: hop.Via4, Link: hop.Link},
		Route{Kind: RouteVia, Dst: v6, Via: hop.Via6, Link: hop.Link},
	)
}
