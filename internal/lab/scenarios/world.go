package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// nodes are the three, in order.
func nodes() []string { return []string{"n1", "n2", "n3"} }

func isNode(name string) bool { return slices.Contains(nodes(), name) }

// nodeNumber counts from 1.
func nodeNumber(name string) int { return slices.Index(nodes(), name) + 1 }

// places are what can be dialled.
func places() []string {
	return []string{"n1", "n2", "n3", "n1/2", "n2/2", "n3/2", "localhost", "bridge"}
}

// The addresses of the fabric. Those of nodes are package scene's.
const (
	bridgeName = "br7"
	ingressVNI = 1 << 20 // a new cluster's (mesh.NewIngress)
)

func v4(last byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, last}) }

// v6 has the decimal digits of the IPv4 address: .100 is 2001:db8::100.
func v6(last byte) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", last)) }

// lasts are the last numbers of the addresses of all that is on the link.
func lasts() map[string]byte {
	return map[string]byte{
		"n1": 11, "n2": 12, "n3": 13, "n1/2": 21, "n2/2": 22, "n3/2": 23, "c1": 100, "c2": 101, manyName: 102,
	}
}

// manyName is the client that has a whole subnet of addresses.
const manyName = "many"

// address is where a place is, as seen by who dials; localhost and bridge mean their own node's.
func address(place string, six bool) netip.Addr {
	switch {
	case place == "localhost" && six:
		return netip.IPv6Loopback()
	case place == "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case place == "bridge" && six:
		return bridge6(1).Addr()
	case place == "bridge":
		return bridge4(1).Addr()
	case six:
		return v6(lasts()[place])
	default:
		return v4(lasts()[place])
	}
}

func bridge4(last byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, 0, last}), 24)
}

func bridge6(last byte) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd31::%d/64", last))
}

// manyAddr is the address of the i-th of many clients.
func manyAddr(i int, how How) netip.Addr {
	if how.Six {
		return netip.MustParseAddr(fmt.Sprintf("fd51::%x", i+1))
	}
	const perByte = 250
	return netip.AddrFrom4([4]byte{10, 50, byte(i / perByte), byte(i%perByte + 1)})
}

// calledSource is what scenarios call an address that an endpoint saw.
func calledSource(a netip.Addr) string {
	if a == plan.Uplink4(plan.UplinkHostNumber).Addr() || a == plan.Uplink6(plan.UplinkHostNumber).Addr() {
		return "uplink"
	}
	for name, last := range lasts() {
		if a == v4(last) || a == v6(last) {
			return name
		}
	}
	return a.String()
}

// world is the cluster that a scenario is about.
type world struct {
	*scene.World
	gone map[string]bool
	held map[string][]mesh.HeldPort
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	return &world{scene.New(tb, len(nodes())), map[string]bool{}, map[string][]mesh.HeldPort{}}
}

func (w *world) service(name string, f flags) error {
	if f.publish == nil && f.networks == nil {
		return fmt.Errorf("service %s publishes nothing and is on no network", name)
	}
	var networks []mesh.NetworkID
	for _, network := range f.networks {
		networks = append(networks, w.network(network))
	}
	w.Service(name, networks, f.publish...)
	return w.editService(name, f.onto)
}

func (w *world) editService(name string, edit func(*mesh.Service)) error {
	have := w.State.Snapshot().ServiceNamed(name)
	if have == nil {
		return fmt.Errorf("there is no service %q", name)
	}
	next := *have
	edit(&next)
	w.Write(scene.NodeID(1), mesh.ServiceRecord(&next))
	w.Settle()
	return nil
}

func (w *world) removeService(name string) error {
	snap := w.State.Snapshot()
	have := snap.ServiceNamed(name)
	if have == nil {
		return fmt.Errorf("there is no service %q", name)
	}
	for _, e := range snap.EndpointsOf(have.ID) {
		w.Write(e.Node, mesh.Record{Kind: mesh.KindEndpoint, ID: string(e.ID), Deleted: true})
	}
	w.Write(scene.NodeID(1), mesh.Record{Kind: mesh.KindService, ID: string(have.ID), Deleted: true})
	w.Settle()
	return nil
}

func (w *world) endpoint(service, name, node string, weight int) error {
	have := w.State.Snapshot().ServiceNamed(service)
	if have == nil {
		return fmt.Errorf("there is no service %q", service)
	}
	w.Endpoint(have.ID, name, nodeNumber(node))
	if weight == 1 {
		return nil
	}
	return w.editEndpoint(name, func(e *mesh.Endpoint) { e.Weight = weight })
}

func (w *world) editEndpoint(name string, edit func(*mesh.Endpoint)) error {
	have := w.State.Snapshot().EndpointNamed(name)
	if have == nil {
		return fmt.Errorf("there is no endpoint %q", name)
	}
	next := *have
	next.Attached = slices.Clone(have.Attached)
	edit(&next)
	w.Write(next.Node, mesh.EndpointRecord(&next))
	w.Settle()
	return nil
}

func (w *world) removeEndpoint(name string) error {
	have := w.State.Snapshot().EndpointNamed(name)
	if have == nil {
		return fmt.Errorf("there is no endpoint %q", name)
	}
	w.Write(have.Node, mesh.Record{Kind: mesh.KindEndpoint, ID: string(have.ID), Deleted: true})
	w.Settle()
	return nil
}

// plans are what each node's kernel should hold, by node.
func (w *world) plans(balancer mesh.Balancer) map[string]*plan.Plan {
	snap := w.State.Snapshot()
	plans := map[string]*plan.Plan{}
	for i, name := range nodes() {
		local := mesh.Local{ID: scene.NodeID(i + 1), Balancer: balancer, Held: w.held[name], Gone: map[mesh.NodeID]bool{}}
		if name == "n1" {
			local.OwnBridges = []string{bridgeName}
		}
		for other := range w.gone {
			if other != name {
				local.Gone[scene.NodeID(nodeNumber(other))] = true
			}
		}
		plans[name] = agent.Compile(local, snap)
	}
	return plans
}

// workload is one endpoint of the cluster as a fabric builds it.
type workload struct {
	name, node, sandbox string
	v4, v6              netip.Addr // on the ingress network
	attached            []mesh.Attachment
}

// workloads are all endpoints, by name.
func (w *world) workloads() map[string]workload {
	found := map[string]workload{}
	snap := w.State.Snapshot()
	for _, e := range snap.Endpoints {
		a, _ := e.On(mesh.IngressNetwork)
		found[e.Name] = workload{
			name: e.Name, node: snap.Node(e.Node).Name, sandbox: plan.EndpointSandbox(string(e.ID)), v4: a.V4, v6: a.V6,
			attached: e.Attached,
		}
	}
	return found
}

// usualTarget is the port whose server bears the endpoint's name alone; another's
// has the port behind it: "a:81".
const usualTarget = 80

func serverName(endpoint string, port uint16) string {
	if port == usualTarget {
		return endpoint
	}
	return fmt.Sprintf("%s:%d", endpoint, port)
}
