package bridge

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// card is one hardware address on one bridge.
type card struct {
	network mesh.NetworkID
	mac     plan.MAC
}

// cardOf is what an endpoint is to be on a bridge.
func cardOf(e *mesh.Endpoint, a mesh.Attachment) card {
	wish, _ := e.JoinedTo(a.Network)
	return card{a.Network, cmp.Or(plan.MAC(wish.MAC), plan.BridgedMAC(a.V4))}
}

// cards are the hardware addresses on the bridges here and whose they are: of two endpoints with
// one the frames would come to whoever spoke last. Those that are made from an address go before
// those that somebody chose, and of those the oldest endpoint's.
func (b *builder) cards() map[card]mesh.EndpointID {
	local := b.snap.Local(b.local.ID)
	slices.SortStableFunc(local, func(x, y *mesh.Endpoint) int { return cmp.Compare(b.snap.Since(x.ID), b.snap.Since(y.ID)) })
	owners := map[card]mesh.EndpointID{}
	for _, chosen := range []bool{false, true} {
		for _, e := range local {
			for _, a := range e.Attached {
				n, p := b.snap.Network(a.Network), cardOf(e, a)
				if n == nil || !n.Bridged() || (p.mac != plan.BridgedMAC(a.V4)) != chosen || p.mac == plan.BridgedMAC(n.Gateway4) {
					continue
				}
				if _, taken := owners[p]; !taken {
					owners[p] = e.ID
				}
			}
		}
	}
	return owners
}

// ownCard tells whether an endpoint has the hardware address that it is to have on a bridge, and
// leaves it out where it has not.
func (b *builder) ownCard(e *mesh.Endpoint, a mesh.Attachment, n *mesh.Network, owners map[card]mesh.EndpointID) bool {
	p := cardOf(e, a)
	owner, held := owners[p]
	if owner == e.ID {
		return true
	}
	who := "the host on the bridge"
	if held {
		who = "endpoint " + string(owner)
	}
	b.plan.Leave(plan.AddressClash, "endpoint "+e.Name, fmt.Sprintf("its hardware address %s on network %s is that of %s: connect it again with another", p.mac, n.Name, who))
	return false
}
