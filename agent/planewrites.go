package agent

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// What an operator does at a Plane. Each decides as the API does and returns when the write
// is on the disk here, or with the refusal; the others hear of it afterwards.

// CreateNetwork makes a network with a subnet of the pool.
func (p *Plane) CreateNetwork(name string) error {
	id := newID[mesh.NetworkID]()
	return p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := mesh.NewNetwork(snap, mesh.NetworkWish{ID: id, Name: name})
		if err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.NetworkRecord(n)}, nil
	})
}

// GrowNetwork gives a network another subnet.
func (p *Plane) GrowNetwork(name string, subnet netip.Prefix) error {
	return p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		next, err := grow(snap, name, []netip.Prefix{subnet}, p.cluster.tick())
		if err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.NetworkRecord(next)}, nil
	})
}

// RemoveNetwork removes a network that no service uses.
func (p *Plane) RemoveNetwork(name string) error {
	return p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n := snap.NetworkNamed(name)
		if n == nil || n.Ingress() {
			return nil, noNetwork(name)
		}
		if users := usersOf(snap, n.ID); len(users) > 0 {
			return nil, mesh.Refuse(mesh.InUse, "remove the service first", "network %q is used by service %q", n.Name, users[0].Name)
		}
		return []mesh.Record{tombstone(mesh.NetworkRecord(n))}, nil
	})
}

// CreateService makes a service on networks, with ports like "8080:80/tcp".
func (p *Plane) CreateService(name string, networks, publish []string) (mesh.ServiceID, error) {
	ports, err := parsePorts(publish)
	if err != nil {
		return "", err
	}
	id := newID[mesh.ServiceID]()
	return id, p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		service, err := newService(snap, id, &sluicev1.CreateServiceRequest{Name: name, Networks: networks}, ports)
		if err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.ServiceRecord(service)}, nil
	})
}

// Publish gives a service other ports, and tells which one had the name.
func (p *Plane) Publish(name string, publish []string) (id mesh.ServiceID, err error) {
	ports, err := parsePorts(publish)
	if err != nil {
		return "", err
	}
	err = p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have := snap.ServiceNamed(name)
		if have == nil {
			return nil, noService(name)
		}
		id = have.ID
		next := *have
		next.Publish = ports
		if err := next.Validate(); err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.ServiceRecord(&next)}, free(snap, have.ID, ports)
	})
	return id, err
}

// RemoveService removes a service, and tells which one had the name; each node detaches its
// endpoints.
func (p *Plane) RemoveService(name string) (id mesh.ServiceID, err error) {
	err = p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have := snap.ServiceNamed(name)
		if have == nil {
			return nil, noService(name)
		}
		id = have.ID
		return []mesh.Record{tombstone(mesh.ServiceRecord(have))}, nil
	})
	return id, err
}

// Attach makes an endpoint of a service on this node, with these addresses if any are given, and
// tells which service had the name.
func (p *Plane) Attach(service, name string, fixed ...netip.Addr) (of mesh.ServiceID, id mesh.EndpointID, err error) {
	id = newID[mesh.EndpointID]()
	err = p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		e, err := wish{service: service, name: name, fixed: fixed}.propose(snap, p.ID(), id, p.cluster.tick())
		if err != nil {
			return nil, err
		}
		of = e.Service
		return []mesh.Record{mesh.EndpointRecord(e)}, nil
	})
	return of, id, err
}

// Detach ends an endpoint of this node, and tells which one had the name.
func (p *Plane) Detach(name string) (id mesh.EndpointID, err error) {
	here := (&endpoints{cluster: p.cluster}).here
	err = p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		e, err := here(snap, name)
		if err != nil {
			return nil, err
		}
		id = e.ID
		return []mesh.Record{tombstone(mesh.EndpointRecord(e))}, nil
	})
	return id, err
}

// Remove puts another node out for good: the others go on with new keys.
func (p *Plane) Remove(id mesh.NodeID) error {
	_, err := p.cluster.removeNode(string(id))
	return err
}

// RotateKeys gives gossip another key.
func (p *Plane) RotateKeys() error {
	_, err := p.cluster.rotateKeys()
	return err
}

// Forget removes another node that will not come back, and its endpoints.
func (p *Plane) Forget(id mesh.NodeID) error {
	return p.write(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n := snap.Node(id)
		if n == nil || id == p.ID() {
			return nil, mesh.Refuse(mesh.NotFound, "name another node of the cluster", "there is no other node %s", id)
		}
		records := []mesh.Record{tombstone(mesh.NodeRecord(n))}
		for _, e := range snap.Local(id) {
			records = append(records, tombstone(mesh.EndpointRecord(e)))
		}
		return records, nil
	})
}

func (p *Plane) write(decide func(*mesh.Snapshot) ([]mesh.Record, error)) error {
	_, err := p.cluster.update(decide)
	return err
}
