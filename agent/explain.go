package agent

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

// evidence is all that an explanation rests on, taken at one moment: the plan
// that is walked is the one that the kernel is compared with.
type evidence struct {
	snap        *mesh.Snapshot
	self        *mesh.Node
	plan        *plan.Plan
	differences []trace.Difference
	addrs       []plan.Addr // the host's own
	bridges     []string
	mounted     string
}

// examine looks at the machine between two rounds.
func (l *loop) examine(ctx context.Context) (e evidence, err error) {
	err = l.withMachine(ctx, func(m Machine) error {
		e.snap = l.cluster.snapshot()
		if e.self = e.snap.Node(l.cluster.own.ID); e.self == nil {
			return noCluster()
		}
		if e.plan, err = l.compile(e.snap); err != nil {
			return err
		}
		ops, err := m.Diff(ctx, e.plan)
		if err != nil {
			return fmt.Errorf("compare the kernel with the plan: %w", err)
		}
		if e.differences, err = Differences(ops); err != nil {
			return err
		}
		e.bridges, e.mounted = l.bridges, filepath.Dir(m.Path(plan.IngressSandbox))
		e.addrs, err = m.HostAddrs()
		return err
	})
	return e, err
}

// Differences says what a kernel's differences from its plan are about. An op
// of a kind that is not known is an error: left out, it would read as "all is well".
func Differences(ops []kernel.Op) ([]trace.Difference, error) {
	var all []trace.Difference
	for _, op := range ops {
		some, err := differencesOf(op)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

func differencesOf(op kernel.Op) ([]trace.Difference, error) {
	says := op.String()
	switch o := op.Object.(type) {
	case kernel.ElementChange:
		return elementDifferences(op.Sandbox, o), nil
	case kernel.TableLoad:
		return []trace.Difference{trace.NoTable(op.Sandbox, o.Table, says)}, nil
	case kernel.LockLoad:
		return []trace.Difference{trace.NoTable(op.Sandbox, o.Table, says)}, nil
	case kernel.Namespace:
		return []trace.Difference{trace.NoSandbox(op.Sandbox, says)}, nil
	case plan.Route:
		if op.Verb == kernel.Delete {
			return []trace.Difference{trace.StrayRoute(op.Sandbox, o.Dst, says)}, nil
		}
	case plan.Rule:
		if op.Verb == kernel.Delete {
			return []trace.Difference{trace.StrayRule(op.Sandbox, o.From, says)}, nil
		}
	case plan.Backend:
		if op.Verb == kernel.Delete {
			return []trace.Difference{trace.StrayBackend(op.Sandbox, o, says)}, nil
		}
	case kernel.BackendOrder: // IPVS may choose otherwise, as it does where there is one more
		return []trace.Difference{trace.StrayBackend(op.Sandbox, o.Backends[0], says)}, nil
	case plan.Link, plan.Addr, plan.Neigh, plan.FDBEntry, plan.Sysctl, plan.VirtualServer, plan.Timeouts, plan.Flow, plan.Zone,
		kernel.UserTable, kernel.Pass, kernel.Announcement:
	default:
		return nil, fmt.Errorf("explain %q: what it is about is not known", says)
	}
	return []trace.Difference{trace.NotAsPlanned(op.Sandbox, op.Object.String(), says)}, nil
}

// elementDifferences are one for each key: an element with another value is both
// wanted and unwanted.
func elementDifferences(sandbox string, change kernel.ElementChange) []trace.Difference {
	var all []trace.Difference
	for _, s := range change.Sets {
		come := map[string]bool{}
		add := func(says string, e plan.Element) {
			says = fmt.Sprintf("%s %s: nft element %s %s: %s", says, sandbox, change.Family, s.Set.Name, e)
			all = append(all, trace.Element(sandbox, change.Family, s.Set.Name, e.Key, says))
		}
		for _, e := range s.Come {
			come[e.Key] = true
			add("add", e)
		}
		for _, e := range s.Gone {
			if !come[e.Key] {
				add("delete", e)
			}
		}
	}
	return all
}

// node is a node as the walk knows it. Only of the own host all addresses are known.
func (e *evidence) node(n *mesh.Node) trace.Node {
	node := trace.Node{Name: e.label(n), Addr: n.Addr, Mounted: filepath.Join(DefaultRunDir, "netns")}
	if n.ID != e.self.ID {
		node.Plan = Compile(mesh.Local{ID: n.ID, Held: n.Held}, e.snap)
		return node
	}
	node.Plan, node.Mounted = e.plan, e.mounted
	for _, a := range e.addrs {
		node.Local = append(node.Local, a.Prefix.Addr())
	}
	return node
}

// label is a node's name, with its ID where another node has the same.
func (e *evidence) label(n *mesh.Node) string {
	for _, other := range e.snap.Nodes {
		if other.Name == n.Name && other.ID != n.ID {
			return n.Name + "/" + string(n.ID)
		}
	}
	return n.Name
}

// question is the packet from a client to a port of a node.
func (e *evidence) question(d dial, from client) trace.Question {
	q := trace.Question{
		Entry: e.node(d.node), Proto: string(d.proto), From: from.addr, Via: from.via, To: d.to, Port: d.port,
		Names: map[netip.Addr]string{},
	}
	met := map[mesh.NodeID]bool{d.node.ID: true}
	for _, f := range e.snap.Fronts {
		if f.Port.Proto != d.proto || d.port < f.Port.Published || d.port > f.Port.End() {
			continue
		}
		for _, endpoint := range e.snap.EndpointsOf(f.Service.ID) {
			e.name(q.Names, endpoint, d.node.ID)
			if n := e.snap.Node(endpoint.Node); n != nil && !met[n.ID] {
				met[n.ID] = true
				q.Others = append(q.Others, e.node(n))
			}
		}
	}
	return q
}

// name names an endpoint's addresses: on the ingress network, and where it is on the node that
// is dialled on all, since an address on a bridge means something there only.
func (e *evidence) name(names map[netip.Addr]string, endpoint *mesh.Endpoint, dialled mesh.NodeID) {
	for _, a := range endpoint.Attached {
		if a.Network == mesh.IngressNetwork || endpoint.Node == dialled {
			names[a.V4], names[a.V6] = endpoint.Name, endpoint.Name
		}
	}
}

// hasAddr tells whether an address is this host's own.
func (e *evidence) hasAddr(addr netip.Addr) bool {
	return addr.IsLoopback() || addr == e.self.Addr ||
		slices.ContainsFunc(e.addrs, func(a plan.Addr) bool { return a.Prefix.Addr() == addr })
}
