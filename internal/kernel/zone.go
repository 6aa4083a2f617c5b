package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The zone of a flow to an endpoint is the node that it came by. When that node is gone,
// its clients come by another one, and the old flow would stand in the way of the new:
// both have the same replies. So the zones that may have flows are remembered, like the
// targets of flow.go, and emptied once when they go.

// observeZones says which zones may have flows.
func (n *namespace) observeZones(want []plan.Zone) ([]plan.Zone, error) {
	if len(want) == 0 && n.zones == nil {
		return nil, nil // this sandbox never told flows apart
	}
	if n.zones == nil {
		flows, err := flowsOf(n.fd)
		if err != nil {
			return nil, err
		}
		n.zones = map[plan.Zone]bool{}
		for i := range flows {
			if z := flows[i].zone; z != 0 {
				n.zones[plan.Zone(z)] = true
			}
		}
	}
	for _, z := range want {
		n.zones[z] = true
	}
	return slices.Sorted(maps.Keys(n.zones)), nil
}

// diffZones forgets the flows of zones that are not planned any more. A zone without
// flows is no difference.
func diffZones(want *plan.Sandbox, have []plan.Zone) []Op {
	var ops []Op
	for _, z := range have {
		if !slices.Contains(want.Zones, z) {
			ops = append(ops, Op{Delete, want.Name, z})
		}
	}
	return ops
}

// doZone empties a zone.
func (n *namespace) doZone(z plan.Zone) error {
	if err := forgetZone(n.fd, uint16(z), func(*tracked) bool { return true }); err != nil {
		return err
	}
	delete(n.zones, z)
	return nil
}

// forgetZone deletes those of a zone's flows that are over, and makes room for the same
// flows in another zone. Datagrams that came there already, and had to take another port
// beside the old flow, get their own again. A server that goes on sending meanwhile must
// not begin a flow of its own in their place, out into the world: that is held back.
func forgetZone(where netns.NsHandle, zone uint16, over func(*tracked) bool) error {
	flows, err := flowsOf(where)
	if err != nil {
		return err
	}
	var forget []tracked
	clients, datagrams := map[netip.AddrPort]bool{}, map[way]bool{}
	for i := range flows {
		f := &flows[i]
		if f.zone != zone || !over(f) {
			continue
		}
		forget = append(forget, *f)
		if f.proto == unix.IPPROTO_UDP {
			clients[f.dst], datagrams[way{f.dst, f.source}] = true, true
		}
	}
	err = errors.Join(holdBack(where, clients), forgetFlows(where, forget))
	if len(datagrams) == 0 {
		return err
	}
	return errors.Join(err, forgetDisplaced(where, zone, datagrams))
}

// way is a flow without the node that it comes by.
type way struct{ client, endpoint netip.AddrPort }

// forgetDisplaced deletes the flows of other zones that had to take another port beside a
// zone's flows, until these were deleted: none comes after that.
func forgetDisplaced(where netns.NsHandle, zone uint16, datagrams map[way]bool) error {
	flows, err := flowsOf(where)
	if err != nil {
		return err
	}
	displaced := slices.DeleteFunc(flows, func(f tracked) bool {
		return f.proto != unix.IPPROTO_UDP || f.zone == 0 || f.zone == zone || !f.displaced() || !datagrams[way{f.from, f.source}]
	})
	clients := map[netip.AddrPort]bool{} // as the servers know them by now
	for _, f := range displaced {
		clients[f.dst] = true
	}
	return errors.Join(holdBack(where, clients), forgetFlows(where, displaced))
}

// holdBack lets no endpoint begin a flow from a published port to these clients for a while.
func holdBack(where netns.NsHandle, clients map[netip.AddrPort]bool) error {
	four := SetChange{Set: plan.Set{Name: plan.Over4, Key: []plan.Field{plan.FieldIPv4, plan.FieldPort}}}
	six := SetChange{Set: plan.Set{Name: plan.Over6, Key: []plan.Field{plan.FieldIPv6, plan.FieldPort}}}
	for client := range clients {
		e := plan.Element{Key: plan.Join(client.Addr().String(), fmt.Sprint(client.Port()))}
		if client.Addr().Is4() {
			four.Come = append(four.Come, e)
		} else {
			six.Come = append(six.Come, e)
		}
	}
	change := ElementChange{Family: "inet"}
	for _, s := range []SetChange{four, six} {
		if s.Come = s.Come[:min(len(s.Come), holdLimit)]; len(s.Come) > 0 {
			change.Sets = append(change.Sets, s)
		}
	}
	if len(change.Sets) == 0 {
		return nil
	}
	n := &namespace{fd: where} // with a connection of its own: a round may be under way
	defer n.nft.close()
	return n.changeElements(change)
}

// holdLimit is how many clients of one family are held back at a time: less than the set has room for.
const holdLimit = 32768
