package agent

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// connect puts an endpoint of this node on one more network. It returns once the endpoint can be
// used there; where it cannot, everything is undone and the reason returned.
func (e *endpoints) connect(ctx context.Context, name string, c connection) (mesh.EndpointID, error) {
	var before *mesh.Endpoint
	var network mesh.NetworkID
	rev, err := e.cluster.update(func(snap *mesh.Snapshot) (records []mesh.Record, err error) {
		if before, err = e.here(snap, name); err != nil {
			return nil, err
		}
		next, err := c.propose(snap, before, e.cluster.tick())
		if err != nil {
			return nil, err
		}
		network = snap.NetworkNamed(c.network).ID
		return []mesh.Record{mesh.EndpointRecord(next)}, nil
	})
	if err != nil {
		return "", err
	}
	err = e.loop.wait(ctx, rev)
	if err == nil {
		err = e.status.connection(before.ID, network)
	}
	if err != nil {
		return "", errors.Join(err, e.undone(ctx, func() (uint64, error) { return e.undo(before, network) }))
	}
	return before.ID, nil
}

// propose is the endpoint with the connection, or why it may not be.
func (c connection) propose(snap *mesh.Snapshot, have *mesh.Endpoint, now uint64) (*mesh.Endpoint, error) {
	service := snap.Service(have.Service)
	if service == nil {
		return nil, mesh.Refuse(mesh.NotFound, "attach it to another service", "the service of endpoint %q was removed", have.Name)
	}
	if n := snap.NetworkNamed(c.network); n != nil && slices.Contains(have.Networks(service), n.ID) {
		return nil, mesh.Refuse(AlreadyConnected, "to change what it is there, disconnect it first, or attach it anew where the network is its service's",
			"endpoint %q is on network %q", have.Name, n.Name)
	}
	next, err := c.connect(snap, have, service)
	if err != nil {
		return nil, err
	}
	if err := next.Validate(); err != nil {
		return nil, err
	}
	return next, cmp.Or(snap.CheckFixed(next, now), checkMACs(snap, next), snap.CheckEndpointNames(next, have))
}

// undo takes an endpoint off a network again, and what it asked for there.
func (e *endpoints) undo(before *mesh.Endpoint, network mesh.NetworkID) (uint64, error) {
	return e.cluster.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have := endpointByID(snap, before.ID)
		if have == nil {
			return nil, nil
		}
		next := disconnected(have, network, snap.Network(network), snap)
		for _, a := range before.Fixed {
			if slices.Contains(have.Fixed, a) && !slices.Contains(next.Fixed, a) {
				next.Fixed = append(next.Fixed, a)
			}
		}
		slices.SortFunc(next.Fixed, netip.Addr.Compare)
		return []mesh.Record{mesh.EndpointRecord(next)}, nil
	})
}

// disconnect takes an endpoint of this node off a network that it was connected to, and returns
// once its interface there is gone.
func (e *endpoints) disconnect(ctx context.Context, name, network string) (mesh.EndpointID, error) {
	var id mesh.EndpointID
	rev, err := e.cluster.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have, err := e.here(snap, name)
		if err != nil {
			return nil, err
		}
		id = have.ID
		of := mesh.NetworkID(network) // where there is no such network any more
		n := snap.NetworkNamed(network)
		if n != nil {
			of = n.ID
		}
		if err := parts(snap, have, of, network); err != nil {
			return nil, err
		}
		next := disconnected(have, of, n, snap)
		if service := snap.Service(have.Service); service != nil && len(next.Networks(service)) == 0 {
			return nil, mesh.Refuse(NoInterface, "connect it to another network first, or detach it", "network %q is the only one of endpoint %q", network, have.Name)
		}
		return []mesh.Record{mesh.EndpointRecord(next)}, nil
	})
	if err != nil {
		return "", err
	}
	return id, e.loop.wait(ctx, rev)
}

// parts refuses to take an endpoint off a network that is its service's, or that it is not on.
func parts(snap *mesh.Snapshot, e *mesh.Endpoint, of mesh.NetworkID, name string) error {
	if service := snap.Service(e.Service); service != nil && slices.Contains(service.Uses(), of) {
		return mesh.Refuse(mesh.InUse, "take it off the service with sluice service update, or detach the endpoint",
			"endpoint %q is on network %q by its service %q", e.Name, name, service.Name)
	}
	if j, joined := e.JoinedTo(of); joined && !j.ByService {
		return nil
	}
	if snap.Network(of) == nil {
		return noNetwork(name)
	}
	return mesh.Refuse(mesh.NotFound, "see sluice endpoint inspect "+e.Name, "endpoint %q is not on network %q", e.Name, name)
}

// connection tells why an endpoint cannot be used on one network of this node's, as of the last
// round; nil where it can.
func (s *status) connection(id mesh.EndpointID, network mesh.NetworkID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.connection(id, network)
}

func (o outcome) connection(id mesh.EndpointID, network mesh.NetworkID) error {
	e, n := endpointByID(o.snap, id), o.snap.Network(network)
	if e == nil || n == nil {
		return mesh.Refuse(mesh.NotFound, "connect it again", "endpoint or network was removed meanwhile")
	}
	a, attached := e.On(network)
	if !attached {
		if err := o.refused[id]; err != nil {
			return err
		}
		return mesh.Refuse(NotUsable, "see sluice status", "endpoint %q has no address on network %q", e.Name, n.Name)
	}
	for _, l := range o.plan.Left {
		if l.Object == "endpoint "+e.Name || l.Object == "network "+n.Name {
			return mesh.Refuse(NotUsable, "see sluice status", "%s was left out (%s: %s)", l.Object, l.Reason, l.Detail)
		}
	}
	for _, f := range o.report.Failed {
		sandbox, object, _ := strings.Cut(f.Object, ": ")
		inside := sandbox == plan.EndpointSandbox(string(id)) && strings.Contains(object, linkName(e, n))
		if inside || farEnd(object, e, a) {
			return mesh.Refuse(NotUsable, "see sluice status and the agent's log", "the kernel refused %s (%v)", f.Object, f.Err)
		}
	}
	return nil
}

// farEnd tells whether an object is the end of an endpoint's link that is not in its namespace, or
// the bridge that it is a port of.
func farEnd(object string, e *mesh.Endpoint, a mesh.Attachment) bool {
	return slices.ContainsFunc([]string{
		plan.EndpointLink(a.V4), plan.BridgePort(string(e.ID), string(a.Network)), plan.BridgeLink(string(a.Network)),
	}, func(name string) bool { return strings.Contains(object, name) })
}
