package kernel

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

type linkIP struct {
	link string
	ip   netip.Addr
}

func neighKey(n plan.Neigh) linkIP { return linkIP{n.Link, n.IP} }

// observeNeighs lists the permanent neighbours on our devices: what the kernel
// learnt by itself is not ours.
func (n *namespace) observeNeighs() ([]plan.Neigh, error) {
	names, err := n.indices()
	if err != nil {
		return nil, err
	}
	var found []plan.Neigh
	for _, af := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := retryDump(func() ([]netlink.Neigh, error) { return n.link.NeighList(0, af) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours of %s: %w", n.name, err)
		}
		for _, e := range list {
			name, ours := names[e.LinkIndex]
			if !ours || e.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			seen := plan.Neigh{Link: name, IP: addrOf(e.IP)}
			copy(seen.MAC[:], e.HardwareAddr)
			found = append(found, seen)
		}
	}
	return found, nil
}

func (n *namespace) doNeigh(verb Verb, want plan.Neigh) error {
	index, err := n.index(want.Link)
	if err != nil {
		return orAbsent(verb, err)
	}
	entry := &netlink.Neigh{
		LinkIndex: index, Family: family(want.IP), State: netlink.NUD_PERMANENT,
		IP: want.IP.AsSlice(), HardwareAddr: hardware(want.MAC),
	}
	if verb == Delete {
		return orAbsent(verb, n.link.NeighDel(entry))
	}
	return n.link.NeighSet(entry)
}
