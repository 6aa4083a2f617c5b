package mesh

import (
	"cmp"
	"encoding/binary"
	"net/netip"
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
	a, ok := snap.virtual()[virtualKey{service, network}]
	return a, ok
}

// ChooseVirtual is what the writer of a service stores in Service.Virtual: what the service has,
// or else what is free by hash and probing, on each overlay that it uses and that exists; nothing
// on one that has no address left (see Snapshot.Virtual). It refuses with PoolExhausted there.
func (snap *Snapshot) ChooseVirtual(s *Service) ([]Attachment, error) {
	if s.Mode == RoundRobinDNS {
		return nil, nil
	}
	have, taken := snap.virtual(), snap.heldVirtual()
	for k, a := range have {
		if k.service != s.ID {
			taken.addresses[at{k.network, a.V4}] = true
		}
	}
	var list []Attachment
	for _, id := range s.Networks {
		n := snap.Network(id)
		if n == nil || !n.virtuals() {
			continue
		}
		a, ok := have[virtualKey{s.ID, id}]
		if !ok {
			if a, ok = n.freeVirtual(n.virtualStart(s.ID), taken); !ok {
				return nil, Refuse(PoolExhausted, "use --endpoint-mode dnsrr, or remove a service from the network",
					"network %q has no virtual address left for service %q: of %d all are in use", n.Name, s.Name, n.virtualSize()-2)
			}
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Attachment) int { return cmp.Compare(a.Network, b.Network) })
	return list, nil
}

type virtualKey struct {
	service ServiceID
	network NetworkID
}

// settleVirtual gives every service its virtual addresses: first what was written, the oldest
// claim first, then to those that have none.
func (snap *Snapshot) settleVirtual() map[virtualKey]Attachment {
	all, taken := map[virtualKey]Attachment{}, snap.heldVirtual()
	give := func(s *Service, a Attachment) {
		all[virtualKey{s.ID, a.Network}] = a
		taken.addresses[at{a.Network, a.V4}] = true
	}
	for _, s := range snap.byAge {
		if s.Mode == RoundRobinDNS {
			continue
		}
		for _, a := range s.Virtual {
			n := snap.networks[a.Network]
			_, on := slices.BinarySearch(s.Networks, a.Network)
			if on && n != nil && n.virtuals() && n.isVirtual(a) && taken.free(n, a) {
				give(s, a)
			}
		}
	}
	for _, s := range snap.byAge {
		if s.Mode == RoundRobinDNS {
			continue
		}
		for _, id := range s.Networks {
			n := snap.networks[id]
			if _, has := all[virtualKey{s.ID, id}]; has || n == nil || !n.virtuals() {
				continue
			}
			start := n.virtualStart(s.ID)
			if i := slices.IndexFunc(s.Virtual, func(a Attachment) bool { return a.Network == id && n.isVirtual(a) }); i >= 0 {
				start = n.virtualNumberOf(s.Virtual[i])
			}
			if a, ok := n.freeVirtual(start, taken); ok {
				give(s, a)
			}
		}
	}
	return all
}

// takenVirtual is what no other service may have of the parts for virtual addresses.
type takenVirtual struct {
	addresses map[at]bool        // of services
	blocks    map[heldBlock]bool // that nodes hold since before they were for virtual addresses
	full      map[NetworkID]bool
}

type heldBlock struct {
	network NetworkID
	prefix  netip.Prefix
}

// heldVirtual is what nodes have.
func (snap *Snapshot) heldVirtual() takenVirtual {
	taken := takenVirtual{map[at]bool{}, map[heldBlock]bool{}, map[NetworkID]bool{}}
	for _, node := range snap.Nodes {
		for _, b := range node.Blocks {
			if n := snap.networks[b.Network]; n.virtuals() && n.virtual4().Contains(b.V4.Addr()) {
				taken.blocks[heldBlock{n.ID, b.V4}] = true
			}
		}
	}
	return taken
}

func (t takenVirtual) free(n *Network, a Attachment) bool {
	if t.addresses[at{n.ID, a.V4}] {
		return false
	}
	return len(t.blocks) == 0 || !t.blocks[heldBlock{n.ID, netip.PrefixFrom(a.V4, n.Bits4).Masked()}]
}

// virtuals tells whether services have virtual addresses on the network.
func (n *Network) virtuals() bool { return !n.Bridged() && !n.Ingress() }

// virtualSize is how many addresses the part for virtual ones has. Neither the first, which is no
// host's, nor the last, which is the subnet's broadcast address, is given to a service.
func (n *Network) virtualSize() int { return 1 << (32 - n.virtual4().Bits()) }

func (n *Network) virtualStart(id ServiceID) int {
	return int(hash("virtual", string(id)) % uint64(n.virtualSize()-2))
}

// virtualAddress is the i-th pair of virtual addresses.
func (n *Network) virtualAddress(i int) Attachment {
	v6 := n.virtual6().Addr().As16()
	binary.BigEndian.PutUint64(v6[8:], uint64(i+2))
	return Attachment{n.ID, nth4(n.virtual4(), 32, i+1).Addr(), netip.AddrFrom16(v6)}
}

// virtualNumberOf is the inverse of virtualAddress, for what is in virtual4.
func (n *Network) virtualNumberOf(a Attachment) int {
	have, base := a.V4.As4(), n.virtual4().Addr().As4()
	return int(binary.BigEndian.Uint32(have[:])-binary.BigEndian.Uint32(base[:])) - 1
}

// isVirtual tells whether a is a pair that a service may have. It may come from anybody.
func (n *Network) isVirtual(a Attachment) bool {
	if !n.virtual4().Contains(a.V4) {
		return false
	}
	i := n.virtualNumberOf(a)
	return i >= 0 && i < n.virtualSize()-2 && n.virtualAddress(i) == a
}

// freeVirtual is the first pair that is not taken, from the one of the number start on.
func (n *Network) freeVirtual(start int, taken takenVirtual) (Attachment, bool) {
	count := n.virtualSize() - 2
	for i := range count {
		if taken.full[n.ID] {
			break
		}
		if a := n.virtualAddress((start + i) % count); taken.free(n, a) {
			return a, true
		}
	}
	taken.full[n.ID] = true
	return Attachment{}, false
}
