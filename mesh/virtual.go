package mesh

import (
	"cmp"
	"slices"
)

// A service that is reached by one address has a virtual one on each of its overlays. They are
// of a part of the network's subnet that nodes give no addresses from. Who writes the service
// chooses, and what is written stands against what others only would have; see Snapshot.Virtual.

// Virtual is the address of a service on an overlay, which stands for its endpoints there. It
// has none on a bridge, on the ingress network, or where its name is answered with endpoints. Of
// two services that were written with one address the older claim holds it; the other, like one
// that was written with none, has the next that is free, the same on all nodes.
func (snap *Snapshot) Virtual(service ServiceID, network NetworkID) (Attachment, bool) {
	return onNetwork(snap.virtualOf(service), network)
}

func onNetwork(list []Attachment, id NetworkID) (Attachment, bool) {
	i := slices.IndexFunc(list, func(a Attachment) bool { return a.Network == id })
	if i < 0 {
		return Attachment{}, false
	}
	return list[i], true
}

// ChooseVirtual is what the writer of a service stores in Service.Virtual: what the service has,
// or else what is free by hash and probing, on each overlay that it is on and that exists. It
// refuses (PoolExhausted) where a network that it is new on has no address left. s need not be written yet.
func (snap *Snapshot) ChooseVirtual(s *Service) ([]Attachment, error) {
	if s.Mode == RoundRobinDNS {
		return nil, nil
	}
	parts := snap.virtualParts()
	for i, list := range snap.virtual {
		for _, a := range list {
			if snap.Services[i].ID != s.ID {
				parts[a.Network].give(a)
			}
		}
	}
	var chosen []Attachment
	for _, id := range s.Networks {
		part := parts[id]
		if part == nil {
			continue
		}
		a, ok := onNetwork(snap.virtualOf(s.ID), id)
		if !ok {
			if a, ok = part.next(part.start(s.ID)); !ok && snap.without(s.ID, id) {
				continue // it goes on without one, by its endpoints
			}
			if !ok {
				return nil, Refuse(PoolExhausted, "use --endpoint-mode dnsrr, or remove a service from the network",
					"network %q has no virtual address left for service %q: of the %d in %s %d are in use, 0 are free", part.network.Name, s.Name, part.count, part.four, part.given)
			}
		}
		chosen = append(chosen, a)
	}
	slices.SortFunc(chosen, func(a, b Attachment) int { return cmp.Compare(a.Network, b.Network) })
	return chosen, nil
}

// without tells whether a service is on a network and should have a virtual address there.
func (snap *Snapshot) without(service ServiceID, network NetworkID) bool {
	have := snap.services[service]
	return have != nil && have.Mode != RoundRobinDNS && slices.Contains(have.Networks, network)
}

// virtualOf are the virtual addresses that a service has; none where it is not there.
func (snap *Snapshot) virtualOf(id ServiceID) []Attachment {
	i, found := snap.placeOf(id)
	if !found || i >= len(snap.virtual) {
		return nil
	}
	return snap.virtual[i]
}

// placeOf is where a service is in Services.
func (snap *Snapshot) placeOf(id ServiceID) (int, bool) {
	return slices.BinarySearchFunc(snap.Services, id, func(s *Service, id ServiceID) int { return cmp.Compare(s.ID, id) })
}

// settleVirtual gives every service its virtual addresses: first what was written, the oldest
// claim first, then to those that have none.
func (snap *Snapshot) settleVirtual(byAge []Record) {
	parts := snap.virtualParts()
	if len(parts) == 0 {
		return
	}
	type placed struct {
		service *Service
		place   int
	}
	var later []placed
	snap.virtual = make([][]Attachment, len(snap.Services))
	for _, r := range byAge {
		s := r.Service
		if s == nil || s.Mode == RoundRobinDNS || len(s.Networks) == 0 {
			continue
		}
		place, _ := snap.placeOf(s.ID)
		for _, a := range s.Virtual {
			part := parts[a.Network]
			if _, on := slices.BinarySearch(s.Networks, a.Network); on && part != nil && part.has(a) && part.free(a) {
				part.give(a)
				snap.virtual[place] = append(snap.virtual[place], a)
			}
		}
		if len(snap.virtual[place]) < len(s.Networks) {
			later = append(later, placed{s, place})
		}
	}
	for _, p := range later {
		for _, id := range p.service.Networks {
			part := parts[id]
			if _, has := onNetwork(snap.virtual[p.place], id); has || part == nil {
				continue
			}
			start := part.start(p.service.ID)
			if a, written := onNetwork(p.service.Virtual, id); written && part.has(a) {
				start = part.number(a)
			}
			if a, ok := part.next(start); ok {
				part.give(a)
				snap.virtual[p.place] = append(snap.virtual[p.place], a)
			}
		}
	}
}
