// Package scene builds the cluster states that tests compile, apply and compare.
package scene

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// TB is what a World needs of a test or benchmark; a program that is none gives its own.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// World builds records as the nodes of a cluster would, settled.
type World struct {
	tb    TB
	State mesh.State
	time  uint64
}

func id[T ~string](kind byte, n int) T { return T(fmt.Sprintf("%c%0*x", kind, mesh.IDLength-1, n)) }

// NodeID is the ID of node n, counted from 1.
func NodeID(n int) mesh.NodeID { return id[mesh.NodeID]('a', n) }

// New is a cluster of so many nodes and nothing else.
func New(tb TB, nodes int) *World {
	tb.Helper()
	w := &World{tb: tb}
	w.Write(NodeID(1), mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 0x1234567890)))
	for i := range nodes {
		n := i + 1
		w.Write(NodeID(n), mesh.NodeRecord(&mesh.Node{
			ID: NodeID(n), Name: fmt.Sprintf("n%d", n), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}),
			VXLANPort: 4789, MTU: 1500,
		}))
	}
	w.Settle()
	return w
}

// Write merges a record as written by a node, with the next version.
func (w *World) Write(writer mesh.NodeID, r mesh.Record) {
	w.tb.Helper()
	w.time++
	r.Version, r.Claim = mesh.Version{Time: w.time, Writer: writer}, w.time
	have, ok := w.State.Get(r.Key())
	if ok {
		r.Claim = have.Claim
	}
	if err := r.Validate(); err != nil {
		w.tb.Fatalf("record %s %s: %v", r.Kind, r.ID, err)
	}
	r, err := gossip.Seal(r, have, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.State.Merge(r)
}

// Skip leaves so many IDs out: what comes then has others than in an earlier world.
func (w *World) Skip(ids uint64) { w.time += ids }

// Settle lets every node make its claims until nothing changes.
func (w *World) Settle() {
	w.tb.Helper()
	for range 4 {
		for _, n := range w.State.Snapshot().Nodes {
			records, refused := mesh.Settle(w.State.Snapshot(), n.ID, w.time)
			for e, err := range refused {
				w.tb.Fatalf("endpoint %s: %v", e, err)
			}
			for _, r := range records {
				w.Write(n.ID, r)
			}
		}
	}
}

// Network makes a user network.
func (w *World) Network(name string) mesh.NetworkID {
	w.tb.Helper()
	n, err := mesh.NewNetwork(w.State.Snapshot(), mesh.NetworkWish{ID: id[mesh.NetworkID]('b', int(w.time)), Name: name})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.Write(NodeID(1), mesh.NetworkRecord(n))
	return n.ID
}

// Service makes a service.
func (w *World) Service(name string, networks []mesh.NetworkID, ports ...mesh.PublishedPort) mesh.ServiceID {
	w.tb.Helper()
	s := &mesh.Service{
		ID: id[mesh.ServiceID]('c', int(w.time)), Name: name,
		Networks: networks, Publish: ports, Scheduler: mesh.RoundRobin,
	}
	w.Write(NodeID(1), mesh.ServiceRecord(s))
	return s.ID
}

// Change writes a service again.
func (w *World) Change(s mesh.ServiceID, change func(*mesh.Service)) {
	w.tb.Helper()
	have := w.State.Snapshot().Service(s)
	if have == nil {
		w.tb.Fatalf("there is no service %s", s)
	}
	next := *have
	change(&next)
	w.Write(NodeID(1), mesh.ServiceRecord(&next))
}

// Endpoint makes an endpoint on a node and lets all settle.
func (w *World) Endpoint(s mesh.ServiceID, name string, node int) *mesh.Endpoint {
	w.tb.Helper()
	e := &mesh.Endpoint{
		ID: id[mesh.EndpointID]('d', int(w.time)), Name: name,
		Service: s, Node: NodeID(node), State: mesh.Ready, Weight: 1,
	}
	w.Write(NodeID(node), mesh.EndpointRecord(e))
	w.Settle()
	return e
}

// Port is a publication on all addresses.
func Port(published, target uint16, proto mesh.Proto) mesh.PublishedPort {
	return mesh.PublishedPort{Proto: proto, Published: published, Target: target}
}

// All are the states whose plans on node n1 are kept as golden files.
func All() map[string]func(w *World) {
	web := []mesh.PublishedPort{Port(8080, 80, mesh.TCP), Port(8080, 80, mesh.UDP)}
	all := map[string]func(w *World){
		"no service": func(*World) {},
		"one endpoint local": func(w *World) {
			w.Endpoint(w.Service("web", nil, web...), "web.1", 1)
		},
		"one endpoint remote": func(w *World) {
			w.Endpoint(w.Service("web", nil, web...), "web.1", 2)
		},
		"no endpoint": func(w *World) { w.Service("web", nil, web...) },
		"two services": func(w *World) {
			s := w.Service("web", nil, web...)
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 2)
			w.Endpoint(w.Service("dns", nil, Port(5353, 53, mesh.UDP)), "dns.1", 3)
		},
		"three networks": func(w *World) {
			blue, red := w.Network("blue"), w.Network("red")
			s := w.Service("web", []mesh.NetworkID{blue, red}, web...)
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 2)
			w.Endpoint(w.Service("db", []mesh.NetworkID{blue}), "db.1", 1)
		},
		"virtual": virtual,
		"published on one address": func(w *World) {
			six := Port(8080, 80, mesh.TCP)
			six.Addr = netip.MustParseAddr("2001:db8::1")
			four := Port(8080, 81, mesh.TCP)
			four.Addr = netip.MustParseAddr("192.0.2.11")
			w.Endpoint(w.Service("web", nil, four, six), "web.1", 1)
		},
		"draining": func(w *World) {
			s := w.Service("web", nil, web...)
			w.Endpoint(s, "web.1", 1)
			e := *w.Endpoint(s, "web.2", 2)
			settled, _ := w.State.Get(mesh.EndpointRecord(&e).Key())
			e = *settled.Endpoint
			e.State = mesh.Draining
			w.Write(NodeID(2), mesh.EndpointRecord(&e))
		},
		"affinity": func(w *World) {
			s := w.Service("web", nil, web...)
			w.Change(s, func(s *mesh.Service) { s.Affinity = 30 * time.Second })
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 2)
			s = w.Service("shop", nil, Port(8081, 80, mesh.TCP))
			w.Change(s, func(s *mesh.Service) { s.Affinity = mesh.AffinityDefault })
			w.Endpoint(s, "shop.1", 1)
			w.Endpoint(s, "shop.2", 2)
		},
		"consistent": func(w *World) {
			s := w.Service("web", nil, web...)
			w.Change(s, func(s *mesh.Service) { s.Affinity, s.Scheduler = mesh.AffinityDefault, mesh.Maglev })
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 2)
		},
		"port conflict": func(w *World) {
			w.Endpoint(w.Service("web", nil, web...), "web.1", 2)
			w.Endpoint(w.Service("web", nil, web[0]), "web.1", 3)
		},
		"underlay IPv6": func(w *World) {
			for _, n := range w.State.Snapshot().Nodes {
				next := *n
				next.Addr = netip.MustParseAddr("2001:db8::" + n.Name[1:])
				w.Write(n.ID, mesh.NodeRecord(&next))
			}
			s := w.Service("web", nil, web...)
			w.Endpoint(s, "web.1", 1)
			w.Endpoint(s, "web.2", 2)
		},
	}
	maps.Copy(all, bridged())
	return all
}

// virtual has services that endpoints reach by their own addresses on a network.
func virtual(w *World) {
	blue := []mesh.NetworkID{w.Network("blue")}
	web := w.Service("web", blue, Port(8080, 80, mesh.TCP), Port(8080, 80, mesh.UDP))
	w.Endpoint(web, "web.1", 1)
	w.Endpoint(web, "web.2", 2)
	shop := w.Service("shop", blue)
	w.Change(shop, func(s *mesh.Service) { s.Affinity = mesh.AffinityDefault })
	w.Endpoint(shop, "shop.1", 2)
	w.Endpoint(shop, "shop.2", 3)
	w.Service("empty", blue)
	names := w.Service("names", blue)
	w.Change(names, func(s *mesh.Service) { s.Mode = mesh.RoundRobinDNS })
	w.Endpoint(names, "names.1", 2)
}
