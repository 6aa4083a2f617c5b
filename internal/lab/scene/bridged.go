package scene

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
)

// Bridge makes a bridge network.
func (w *World) Bridge(name string, wish mesh.NetworkWish) mesh.NetworkID {
	w.tb.Helper()
	wish.ID, wish.Name, wish.Driver = id[mesh.NetworkID]('b', int(w.time)), name, mesh.Bridge
	return w.make(wish)
}

// Overlay makes a user network that is not as they usually are.
func (w *World) Overlay(name string, wish mesh.NetworkWish) mesh.NetworkID {
	w.tb.Helper()
	wish.ID, wish.Name = id[mesh.NetworkID]('b', int(w.time)), name
	return w.make(wish)
}

// DefaultBridge makes the network of services that are on no other.
func (w *World) DefaultBridge() {
	w.tb.Helper()
	n, err := mesh.NewDefaultBridge(w.State.Snapshot())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Write(NodeID(1), mesh.NetworkRecord(n))
}

func (w *World) make(wish mesh.NetworkWish) mesh.NetworkID {
	w.tb.Helper()
	n, err := mesh.NewNetwork(w.State.Snapshot(), wish)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Write(NodeID(1), mesh.NetworkRecord(n))
	return n.ID
}

// Join puts an endpoint on networks that its service is not on, or says more of those it is on.
func (w *World) Join(e *mesh.Endpoint, wishes ...mesh.Joined) {
	w.tb.Helper()
	have, _ := w.State.Get(mesh.EndpointRecord(e).Key())
	next := *have.Endpoint
	next.Joined = wishes
	w.Write(next.Node, mesh.EndpointRecord(&next))
	w.Settle()
}

// OwnPort is a publication on the nodes that have an endpoint.
func OwnPort(published, target uint16, proto mesh.Proto) mesh.PublishedPort {
	p := Port(published, target, proto)
	p.Mode = mesh.Hosted
	return p
}

// bridged are the states of All with bridge networks and ports of a node's own.
func bridged() map[string]func(w *World) {
	return map[string]func(w *World){
		"bridge": func(w *World) {
			net := w.Bridge("blue", mesh.NetworkWish{})
			s := w.Service("web", []mesh.NetworkID{net})
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 1)
			w.Endpoint(s, "web.3", 2)
		},
		"bridge internal": func(w *World) {
			net := w.Bridge("blue", mesh.NetworkWish{Internal: true})
			w.Endpoint(w.Service("web", []mesh.NetworkID{net}), "web.1", 1)
		},
		"bridge apart": func(w *World) {
			net := w.Bridge("blue", mesh.NetworkWish{Apart: true, MTU: 1400})
			w.Endpoint(w.Service("web", []mesh.NetworkID{net}), "web.1", 1)
		},
		"bridge routed": func(w *World) {
			net := w.Bridge("blue", mesh.NetworkWish{Routed: true})
			w.Endpoint(w.Service("web", []mesh.NetworkID{net}), "web.1", 1)
		},
		"hosted": func(w *World) {
			w.DefaultBridge()
			at := func(p mesh.PublishedPort, addr string) mesh.PublishedPort {
				p.Addr = netip.MustParseAddr(addr)
				return p
			}
			some := OwnPort(8083, 80, mesh.TCP)
			some.Sources = "192.0.2.0/25,203.0.113.7/32,2001:db8::/32"
			there := at(OwnPort(8084, 80, mesh.UDP), "192.0.2.11")
			there.Sources = "192.0.2.99/32"
			w.Endpoint(w.Service("web", nil, OwnPort(8080, 80, mesh.TCP), at(OwnPort(8081, 80, mesh.UDP), "192.0.2.11"),
				at(OwnPort(8082, 80, mesh.SCTP), "2001:db8::1"), at(OwnPort(8085, 80, mesh.TCP), "127.0.0.1"), some, there), "web.1", 1)
		},
		"hosted ranges": func(w *World) {
			w.DefaultBridge()
			span := OwnPort(8000, 8000, mesh.UDP)
			span.Last, span.Sources = 8999, "192.0.2.0/24"
			at := OwnPort(9000, 9000, mesh.TCP)
			at.Last, at.Addr = 9010, netip.MustParseAddr("2001:db8::1")
			w.Endpoint(w.Service("web", nil, span, at), "web.1", 1)
		},
		"hosted on overlay": func(w *World) {
			net := w.Network("blue")
			span := OwnPort(9000, 9000, mesh.UDP)
			span.Last = 9010
			w.Endpoint(w.Service("web", []mesh.NetworkID{net}, OwnPort(8080, 80, mesh.TCP), OwnPort(8081, 80, mesh.TCP), span), "web.1", 1)
		},
		"hosted on two addresses": func(w *World) {
			one := OwnPort(9000, 9000, mesh.UDP)
			one.Last, one.Addr = 9010, netip.MustParseAddr("192.0.2.11")
			two := OwnPort(9005, 9005, mesh.UDP)
			two.Last, two.Addr = 9020, netip.MustParseAddr("192.0.2.21")
			w.Endpoint(w.Service("web", []mesh.NetworkID{w.Network("blue")}, one, two), "web.1", 1)
		},
		"hosted twice": func(w *World) {
			w.DefaultBridge()
			s := w.Service("web", nil, OwnPort(8080, 80, mesh.TCP))
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 1)
		},
		"several networks": func(w *World) {
			blue, red := w.Bridge("blue", mesh.NetworkWish{}), w.Bridge("red", mesh.NetworkWish{})
			s := w.Service("web", []mesh.NetworkID{blue, w.Network("green")}, OwnPort(8080, 80, mesh.TCP))
			w.Join(w.Endpoint(s, "web.1", 1), mesh.Joined{
				Network: red, Gateway: 1, Interface: "eth0", MAC: [6]byte{2, 0x42, 1, 2, 3, 4},
				Sysctls: []mesh.InterfaceSysctl{{Family: "ipv4", Table: "conf", Key: "forwarding", Value: "1"}},
			})
		},
		"both modes": bothModes,
		"overlay internal": func(w *World) {
			net := w.Overlay("blue", mesh.NetworkWish{Internal: true, Apart: true, MTU: 1300})
			w.Endpoint(w.Service("web", []mesh.NetworkID{net}), "web.1", 1)
		},
	}
}

// bothModes are services with ports of both modes, on a network and on none.
func bothModes(w *World) {
	w.DefaultBridge()
	ports := func(first uint16) []mesh.PublishedPort {
		return []mesh.PublishedPort{
			Port(first, 80, mesh.TCP), Port(first, 80, mesh.UDP), OwnPort(first+1, 80, mesh.TCP), OwnPort(first+1, 80, mesh.UDP),
		}
	}
	w.Endpoint(w.Service("web", nil, ports(8080)...), "web.1", 1)
	w.Endpoint(w.Service("shop", []mesh.NetworkID{w.Network("blue")}, ports(8090)...), "shop.1", 1)
}
