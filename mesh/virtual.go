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
	return onNetwork(snap.virtual()[service], network)
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
// refuses (PoolExhausted) where a network has no address left. s need not be written yet.
func (snap *Snapshot) ChooseVirtual(s *Service) ([]Attachment, error) {
	if s.Mode == RoundRobinDNS {
		return nil, nil
	}
	have, parts := snap.virtual(), snap.virtualParts()
	for id, list := range have {
		for _, a := range list {
			if id != s.ID {
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
		a, ok := onNetwork(have[s.ID], id)
		if !ok {
			if a, ok = part.next(part.start(s.ID)); !ok {
				return nil, Refuse(PoolExhausted, "use --endpoint-mode dnsrr, or remove a service from the network",
					"network %q has no virtual address left for service %q: of the %d in %s %d are in use, 0 are free", part.network.Name, s.Name, part.count, part.four, len(part.taken))
			}
		}
		chosen = append(chosen, a)
	}
	slices.SortFunc(chosen, func(a, b Attachment) int { return cmp.Compare(a.Network, b.Network) })
	return chosen, nil
}

// settleVirtual gives every service its virtual addresses: first what was written, the oldest
// claim first, then to those that have none.
func (snap *Snapshot) settleVirtual() map[ServiceID][]Attachment {
	all, parts := make(map[ServiceID][]Attachment, len(snap.byAge)), snap.virtualParts()
	for _, s := range snap.byAge {
		for _, a := range s.Virtual {
			part := parts[a.Network]
			if _, on := slices.BinarySearch(s.Networks, a.Network); on && part != nil && s.Mode != RoundRobinDNS && part.has(a) && part.free(a) {
				part.give(a)
				all[s.ID] = append(all[s.ID], a)
			}
		}
	}
	for _, s := range snap.byAge {
		if s.Mode == RoundRobinDNS {
			continue
		}
		for _, id := range s.Networks {
			part := parts[id]
			if _, has := onNetwork(all[s.ID], id); has || part == nil {
				continue
			}
			start := part.start(s.ID)
			if a, written := onNetwork(s.Virtual, id); written && part.has(a) {
				start = part.number(a)
			}
			if a, ok := part.next(start); ok {
				part.give(a)
				all[s.ID] = append(all[s.ID], a)
			}
		}
	}
	return all
}
