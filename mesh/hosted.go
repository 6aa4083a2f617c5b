package mesh

import (
	"cmp"
	"slices"
)

// DefaultBridge is the ID of the bridge network on which the endpoints of a service are that
// publishes ports of its node's own and is on no network. It is made at its first use.
const DefaultBridge NetworkID = "0000000000000002"

// DefaultBridgeName is its name.
const DefaultBridgeName = "sluice0"

// Networks are all networks that an endpoint of the service is to be on, sorted.
func (e *Endpoint) Networks(s *Service) []NetworkID {
	all := slices.Clone(s.Uses())
	for _, j := range e.Joined {
		if !j.ByService {
			all = append(all, j.Network)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Gateway is the endpoint's interface that its default route is on: the ingress network's where
// there is one, for a server of datagrams that binds no address answers from this one; else the one with the
// greatest Joined.Gateway; of equals a bridge's, then that of the first name. None is on an internal network.
func (snap *Snapshot) Gateway(e *Endpoint) (Attachment, bool) {
	exits := snap.exits(e)
	if len(exits) == 0 {
		return Attachment{}, false
	}
	return e.On(exits[0].ID)
}

// Leads tells what leaves by the endpoint's interface on a network: what is sent from its addresses, where other
// interfaces lead to the world too, and all that has no address yet, where the default route is on it.
func (snap *Snapshot) Leads(e *Endpoint, on NetworkID) (own, rest bool) {
	exits := snap.exits(e)
	at := slices.IndexFunc(exits, func(n *Network) bool { return n.ID == on })
	return at >= 0 && len(exits) > 1, at == 0
}

// exits are the networks that the default route may be on, the one that has it first.
func (snap *Snapshot) exits(e *Endpoint) []*Network {
	var found []*Network
	for _, a := range e.Attached {
		if n := snap.Network(a.Network); n != nil && !n.Internal {
			found = append(found, n)
		}
	}
	first := func(is bool) int {
		if is {
			return 0
		}
		return 1
	}
	slices.SortFunc(found, func(a, b *Network) int {
		ja, _ := e.JoinedTo(a.ID)
		jb, _ := e.JoinedTo(b.ID)
		return cmp.Or(
			cmp.Compare(first(a.Ingress()), first(b.Ingress())), cmp.Compare(jb.Gateway, ja.Gateway),
			cmp.Compare(first(a.Bridged()), first(b.Bridged())), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID),
		)
	})
	return found
}

// reached is the interface that ports of mode host lead to. Connections are on one that is there whether
// the service has ports of the mesh or not, and answer from it. What else there is answers from the
// address of the default route where the server binds none.
func (snap *Snapshot) reached(e *Endpoint, p Proto) (Attachment, bool) {
	exits := snap.exits(e)
	if p == TCP && len(exits) > 1 && exits[0].Ingress() {
		return e.On(exits[1].ID)
	}
	return snap.Gateway(e)
}

// HostedFront is a published port that a node answers on for one endpoint of its own.
type HostedFront struct {
	Service  *Service
	Endpoint *Endpoint
	Port     PublishedPort
	At       Attachment // where the endpoint is reached
}

// Hosting is the ports that a node answers on for its own endpoints, and those that they could not have.
type Hosting struct{ Held, Lost []HostedFront }

// Hosted are the ports that a node answers on for its own ready endpoints, the oldest endpoint's
// first, and those that an endpoint could not have because an older one has them: who comes
// takes nothing from who is there. To find it out takes long where there are many: who needs it
// more than once hands it on.
func (snap *Snapshot) Hosted(node NodeID) (all Hosting) {
	byService := map[ServiceID][]PublishedPort{}
	for _, f := range snap.Fronts {
		if f.Port.Mode == Hosted {
			byService[f.Service.ID] = append(byService[f.Service.ID], f.Port)
		}
	}
	var ports heldPorts
	for _, e := range snap.hosting(node, byService) {
		for _, p := range byService[e.Service] {
			at, ok := snap.reached(e, p.Proto)
			if !ok {
				break
			}
			h := HostedFront{snap.services[e.Service], e, p, at}
			if _, taken := ports.overlapped(p); taken {
				all.Lost = append(all.Lost, h)
				continue
			}
			ports.add(p, len(all.Held))
			all.Held = append(all.Held, h)
		}
	}
	return all
}

// hosting are the node's ready endpoints of services that have such ports, the oldest first.
func (snap *Snapshot) hosting(node NodeID, byService map[ServiceID][]PublishedPort) []*Endpoint {
	var local []*Endpoint
	for _, e := range snap.byNode[node] {
		if e.State == Ready && len(byService[e.Service]) > 0 {
			local = append(local, e)
		}
	}
	slices.SortStableFunc(local, func(a, b *Endpoint) int { return cmp.Compare(snap.Since(a.ID), snap.Since(b.ID)) })
	return local
}

// Since is when an endpoint was first written: of two that want one thing here the older has it. It
// is 0 where there is none.
func (snap *Snapshot) Since(id EndpointID) uint64 { return snap.since[id] }
