package scenarios

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

// What endpoints dial by a network of theirs: "SERVICE@NETWORK".

// network is the one of that name, made at its first use.
func (w *world) network(name string) mesh.NetworkID {
	if n := w.State.Snapshot().NetworkNamed(name); n != nil {
		return n.ID
	}
	return w.Network(name)
}

// virtual is the address of "SERVICE@NETWORK"; the zero value for other places.
func (w *world) virtual(place string, how How) (netip.Addr, error) {
	service, network, ok := strings.Cut(place, "@")
	if !ok {
		return netip.Addr{}, nil
	}
	snap := w.State.Snapshot()
	s, n := snap.ServiceNamed(service), snap.NetworkNamed(network)
	if s == nil || n == nil {
		return netip.Addr{}, fmt.Errorf("there is no service or no network of %q", place)
	}
	a, ok := snap.Virtual(s.ID, n.ID)
	if !ok {
		return netip.Addr{}, fmt.Errorf("%s has no virtual address", place)
	}
	if how.Six {
		return a.V6, nil
	}
	return a.V4, nil
}

// called is what scenarios call an address that an endpoint saw: an endpoint's on a network
// that is not the mesh's is its own, a network sandbox's "gateway".
func (w *world) called(a netip.Addr) string {
	snap := w.State.Snapshot()
	for _, e := range snap.Endpoints {
		for _, at := range e.Attached {
			if at.Network != mesh.IngressNetwork && (at.V4 == a || at.V6 == a) {
				return e.Name
			}
		}
	}
	for _, node := range snap.Nodes {
		for i := range node.Blocks {
			if b := &node.Blocks[i]; b.Gateway4() == a || b.Gateway6() == a {
				return "gateway"
			}
		}
	}
	return calledSource(a)
}

// insideQuestion is the packet of an endpoint as its network's sandbox meets it.
func (f *Fake) insideQuestion(a ask) (trace.Question, error) {
	_, network, _ := strings.Cut(a.to, "@")
	n := f.world.State.Snapshot().NetworkNamed(network)
	if n == nil {
		return trace.Question{}, fmt.Errorf("there is no network %q", network)
	}
	caller, err := f.endpoint(a.from)
	if err != nil {
		return trace.Question{}, err
	}
	q := trace.Question{
		Entry: f.node(caller.node), Proto: string(a.how.Proto), To: a.at, Port: a.port,
		Inside: plan.NetworkSandbox(uint32(n.VNI)),
	}
	for _, at := range caller.attached {
		if at.Network == n.ID {
			q.Via, q.From = plan.EndpointLink(at.V4), at.V4
			if a.how.Six {
				q.From = at.V6
			}
		}
	}
	if q.Via == "" {
		return q, fmt.Errorf("%s is not on network %s", a.from, network)
	}
	for _, name := range nodes() {
		q.Others = append(q.Others, f.node(name))
	}
	return q, nil
}
