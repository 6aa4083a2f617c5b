package dns

import (
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// FromSnapshot is the names of a snapshot. Services have no virtual address, alias or stack of
// their own there, so that each name gives its ready endpoints. The ingress network carries no
// names, but it is a way out.
func FromSnapshot(snap *mesh.Snapshot) Names {
	names := Names{TTL: DefaultTTL}
	for _, n := range snap.Networks {
		network := Network{ID: n.ID}
		if !n.Ingress() {
			network.Name, network.Subnets = n.Name, n.Subnets()
		}
		names.Networks = append(names.Networks, network)
	}
	lost := map[string]bool{} // whose name an older claim holds: the winner's name must not give its addresses
	for _, c := range snap.Conflicts {
		if c.Reason == mesh.NameTaken {
			lost[c.ID] = true
		}
	}
	byID := map[mesh.ServiceID]string{}
	for _, s := range snap.Services {
		if lost[string(s.ID)] {
			continue
		}
		byID[s.ID] = s.Name
		names.Services = append(names.Services, Service{
			Name: s.Name, Mode: DNSRR, Networks: s.Networks, Ports: portsOf(s),
		})
	}
	for _, e := range snap.Endpoints {
		if lost[string(e.ID)] {
			continue
		}
		names.Endpoints = append(names.Endpoints, Endpoint{
			Name: e.Name, Service: byID[e.Service], Addrs: addrsOf(e), Ready: e.State == mesh.Ready,
		})
	}
	return names
}

func addrsOf(e *mesh.Endpoint) []Addr {
	var addrs []Addr
	for _, at := range e.Attached {
		if at.Network == mesh.IngressNetwork {
			continue
		}
		for _, ip := range []netip.Addr{at.V4, at.V6} {
			if ip.IsValid() {
				addrs = append(addrs, Addr{Network: at.Network, IP: ip})
			}
		}
	}
	return addrs
}

// portsOf are the ports that the endpoints themselves answer on.
func portsOf(s *mesh.Service) []Port {
	var ports []Port
	for _, p := range s.Publish {
		port := Port{Number: p.Target, Proto: p.Proto}
		if !slices.Contains(ports, port) { // one target may be published twice
			ports = append(ports, port)
		}
	}
	return ports
}
