package dns

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
)

// FromSnapshot is the names of a snapshot, as the askers of node self see them: on a bridge
// there are that node's endpoints only. The ingress network carries no names, but it is a way
// out. The endpoints of nodes that are gone are not ready, as they are to the balancer.
func FromSnapshot(snap *mesh.Snapshot, self mesh.NodeID, gone map[mesh.NodeID]bool) Names {
	f := reader{snap: snap, self: self, gone: gone, lost: map[mesh.Key]bool{}, bridged: map[mesh.NetworkID]bool{}}
	for _, c := range snap.Conflicts {
		if c.Reason == mesh.NameTaken {
			f.lost[mesh.Key{Kind: c.Kind, ID: c.ID}] = true
		}
	}
	names := Names{TTL: DefaultTTL}
	for _, n := range snap.Networks {
		f.bridged[n.ID] = n.Bridged()
		names.Networks = append(names.Networks, f.network(n))
	}
	byID := make(map[mesh.ServiceID]Service, len(snap.Services))
	for _, s := range snap.Services {
		if f.lost[mesh.Key{Kind: mesh.KindService, ID: string(s.ID)}] {
			byID[s.ID] = Service{Stack: s.Stack} // which its endpoints' own names are in
			continue
		}
		service := f.service(s)
		byID[s.ID] = service
		names.Services = append(names.Services, service)
	}
	for _, e := range snap.Endpoints {
		names.Endpoints = append(names.Endpoints, f.endpoint(e, byID[e.Service]))
	}
	return names
}

// AskerOf is an endpoint as one who asks.
func AskerOf(snap *mesh.Snapshot, e *mesh.Endpoint) Asker {
	var a Asker
	for _, at := range e.Attached {
		a.Networks = append(a.Networks, at.Network)
	}
	if s := snap.Service(e.Service); s != nil {
		a.Stack = s.Stack
	}
	return a
}

// reader turns nouns of a snapshot into names.
type reader struct {
	snap    *mesh.Snapshot
	self    mesh.NodeID
	gone    map[mesh.NodeID]bool
	lost    map[mesh.Key]bool // whose name an older claim holds: the winner's name must not give its addresses
	bridged map[mesh.NetworkID]bool
}

func (f *reader) network(n *mesh.Network) Network {
	network := Network{ID: n.ID, Internal: n.Internal}
	if n.Ingress() {
		return network
	}
	network.Subnets = n.Subnets()
	if !f.lost[mesh.Key{Kind: mesh.KindNetwork, ID: string(n.ID)}] {
		network.Name = n.Name
	}
	return network
}

func (f *reader) service(s *mesh.Service) Service {
	out := Service{Name: s.Name, Stack: s.Stack, Mode: DNSRR, Ports: portsOf(s), Shadowed: f.snap.Shadowed(mesh.KindService, string(s.ID))}
	for _, id := range s.Uses() {
		if id != mesh.IngressNetwork {
			out.Networks = append(out.Networks, id)
		}
	}
	for _, alias := range s.Aliases {
		out.Aliases = append(out.Aliases, Alias{Name: alias})
	}
	for _, id := range out.Networks {
		if at, ok := f.snap.Virtual(s.ID, id); ok {
			out.Mode = VIP
			out.VIPs = append(out.VIPs, addrsAt(at)...)
		}
	}
	return out
}

func (f *reader) endpoint(e *mesh.Endpoint, s Service) Endpoint {
	out := Endpoint{
		Name: e.Name, Service: s.Name, Stack: s.Stack, Ready: e.State == mesh.Ready && !f.gone[e.Node],
		Shadowed: f.snap.Shadowed(mesh.KindEndpoint, string(e.ID)),
	}
	if f.lost[mesh.Key{Kind: mesh.KindEndpoint, ID: string(e.ID)}] {
		out.Name = "" // the balancer has it all the same
	}
	for _, at := range e.Attached {
		if at.Network == mesh.IngressNetwork || f.bridged[at.Network] && e.Node != f.self || !f.snap.Reaches(e, at) {
			continue // on a bridge, another node's is not the asker's
		}
		out.Addrs = append(out.Addrs, addrsAt(at)...)
	}
	for _, j := range e.Joined {
		for _, alias := range j.Aliases {
			out.Aliases = append(out.Aliases, Alias{Name: alias, Network: j.Network})
		}
	}
	return out
}

func addrsAt(at mesh.Attachment) []Addr {
	var addrs []Addr
	for _, ip := range []netip.Addr{at.V4, at.V6} {
		if ip.IsValid() {
			addrs = append(addrs, Addr{Network: at.Network, IP: ip})
		}
	}
	return addrs
}

// portsOf are the ports that the endpoints themselves answer on.
func portsOf(s *mesh.Service) []Port {
	var ports []Port
	met := map[Port]bool{}
	for _, p := range s.Publish {
		port := Port{Number: p.Target, Last: p.Last, Proto: p.Proto}
		if !met[port] { // one target may be published twice
			met[port] = true
			ports = append(ports, port)
		}
	}
	return ports
}
