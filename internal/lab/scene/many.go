package scene

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
)

// portsEach is how many ports a service of a Ported world publishes at most.
const portsEach = 4000

// Ported is one node whose endpoints, on the default bridge, have all of the ports: a service and an
// endpoint for each 4,000 of them.
func Ported(tb TB, ports []mesh.PublishedPort) *World {
	tb.Helper()
	w := New(tb, 1)
	w.DefaultBridge()
	for i := 0; len(ports) > 0; i++ {
		some := ports[:min(len(ports), portsEach)]
		ports = ports[len(some):]
		name := fmt.Sprintf("s%d", i)
		w.crowded(w.Service(name, nil, some...), name, i)
	}
	w.Settle()
	return w
}

// Ports are count single ports from first on, all leading to one.
func Ports(first, count int, as mesh.PublishedPort) []mesh.PublishedPort {
	ports := make([]mesh.PublishedPort, count)
	for i := range ports {
		ports[i] = as
		ports[i].Published = uint16(first + i)
	}
	return ports
}

// Networked is one node with so many networks of a driver, with an endpoint on each of the first ones.
func Networked(tb TB, driver mesh.Driver, networks, endpoints int) *World {
	tb.Helper()
	w := New(tb, 1)
	empty := w.State.Snapshot() // looking at those before for each more would take minutes
	for i := range networks {
		name := fmt.Sprintf("net%d", i)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 192 + byte(i>>8), byte(i), 0}), 24)
		n, err := mesh.NewNetwork(empty, mesh.NetworkWish{ID: id[mesh.NetworkID]('b', i), Name: name, Driver: driver, Subnets: []netip.Prefix{subnet}})
		if err != nil {
			tb.Fatal(err)
		}
		w.Write(NodeID(1), mesh.NetworkRecord(n))
		if i < endpoints {
			w.crowded(w.Service("on-"+name, []mesh.NetworkID{n.ID}), name, i)
		}
	}
	w.Settle()
	return w
}

// crowded makes endpoint k of a large world, which is settled with all others.
func (w *World) crowded(s mesh.ServiceID, name string, k int) {
	w.Write(NodeID(1), mesh.EndpointRecord(&mesh.Endpoint{
		ID: EndpointID(k), Name: name + ".1", Service: s, Node: NodeID(1), State: mesh.Ready, Weight: 1,
	}))
}
