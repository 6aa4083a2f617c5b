package agent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// checkMACs refuses hardware addresses that somebody has on the same bridge of this node, or is to
// have: the bridge's frames for the one would come to the other. On an overlay an endpoint is
// alone on its wire.
func checkMACs(snap *mesh.Snapshot, e *mesh.Endpoint) error {
	for _, j := range e.Joined {
		n := snap.Network(j.Network)
		if n == nil || !n.Bridged() || j.MAC == [6]byte{} {
			continue
		}
		if err := checkMAC(snap, e, n, plan.MAC(j.MAC)); err != nil {
			return err
		}
	}
	return nil
}

func checkMAC(snap *mesh.Snapshot, e *mesh.Endpoint, n *mesh.Network, mac plan.MAC) error {
	const do = "choose another one, or none: it is made from the address then"
	if mac == plan.BridgedMAC(n.Gateway4) {
		return mesh.Refuse(mesh.AddressTaken, do, "%s is the hardware address of the gateway of network %q", mac, n.Name)
	}
	for _, other := range snap.Local(e.Node) {
		a, on := other.On(n.ID)
		asks, _ := other.JoinedTo(n.ID)
		if other.ID == e.ID || !on && asks.MAC == [6]byte{} {
			continue
		}
		has := plan.MAC(asks.MAC)
		if on {
			has = cmp.Or(has, plan.BridgedMAC(a.V4))
		}
		if has == mac {
			return mesh.Refuse(mesh.AddressTaken, do, "%s is the hardware address of endpoint %q on network %q", mac, other.Name, n.Name)
		}
	}
	made := netip.AddrFrom4([4]byte(mac[2:]))
	if mac == plan.BridgedMAC(made) && n.Contains(made) && !slices.Contains(e.Fixed, made) {
		return mesh.Refuse(mesh.AddressTaken, do, "%s is the hardware address of whoever gets %s on network %q", mac, made, n.Name)
	}
	return nil
}
