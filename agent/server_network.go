package agent

import (
	"context"
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type networkServer struct {
	sluicev1.UnimplementedNetworkServiceServer
	*api
}

// CreateNetwork makes a network on all nodes.
func (s *networkServer) CreateNetwork(ctx context.Context, req *sluicev1.CreateNetworkRequest) (*sluicev1.CreateNetworkResponse, error) {
	var subnets []netip.Prefix
	if text := req.GetSubnet(); text != "" {
		p, err := fromPrefix("subnet", text, netip.Prefix{})
		if err != nil {
			return nil, err
		}
		subnets = []netip.Prefix{p}
	}
	id := newID[mesh.NetworkID]()
	err := s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := mesh.NewNetwork(snap, mesh.NetworkWish{ID: id, Name: req.GetName(), Subnets: subnets})
		if err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.NetworkRecord(n)}, nil
	})
	if err != nil {
		return nil, err
	}
	snap := s.cluster.snapshot()
	n := snap.Network(id)
	if n == nil {
		return nil, mesh.Refuse(mesh.NotFound, "create it again", "network %q was removed meanwhile", req.GetName())
	}
	return &sluicev1.CreateNetworkResponse{Network: toNetwork(n, snap)}, nil
}

// UpdateNetwork gives a network further subnets.
func (s *networkServer) UpdateNetwork(ctx context.Context, req *sluicev1.UpdateNetworkRequest) (*sluicev1.UpdateNetworkResponse, error) {
	subnets, err := fromSubnets(req.GetAddSubnets())
	if err != nil {
		return nil, err
	}
	if len(subnets) == 0 {
		return nil, mesh.Refuse(mesh.BadValue, "give at least one subnet", "nothing is to be changed")
	}
	var id mesh.NetworkID
	err = s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		next, err := grow(snap, req.GetNetwork(), subnets, s.cluster.tick())
		if err != nil {
			return nil, err
		}
		id = next.ID
		return []mesh.Record{mesh.NetworkRecord(next)}, nil
	})
	if err != nil {
		return nil, err
	}
	snap := s.cluster.snapshot()
	n := snap.Network(id)
	if n == nil {
		return nil, mesh.Refuse(mesh.NotFound, "see sluice network ls", "network %q was removed meanwhile", req.GetNetwork())
	}
	return &sluicev1.UpdateNetworkResponse{Network: toNetwork(n, snap)}, nil
}

// grow is a network with further subnets.
func grow(snap *mesh.Snapshot, name string, subnets []netip.Prefix, now uint64) (*mesh.Network, error) {
	n := snap.NetworkNamed(name)
	if n == nil {
		return nil, noNetwork(name)
	}
	return snap.Grow(n, subnets, now)
}

// ListNetworks lists the networks.
func (s *networkServer) ListNetworks(context.Context, *sluicev1.ListNetworksRequest) (*sluicev1.ListNetworksResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.ListNetworksResponse{}
	for _, n := range snap.Networks {
		resp.Networks = append(resp.Networks, toNetwork(n, snap))
	}
	sortByName(resp.Networks)
	return resp, nil
}

// RemoveNetwork removes a network that no service uses.
func (s *networkServer) RemoveNetwork(ctx context.Context, req *sluicev1.RemoveNetworkRequest) (*sluicev1.RemoveNetworkResponse, error) {
	err := s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n := snap.NetworkNamed(req.GetNetwork())
		if n == nil {
			return nil, noNetwork(req.GetNetwork())
		}
		if n.Ingress() {
			return nil, mesh.Refuse(mesh.InUse, "leave it: published ports need it", "the ingress network cannot be removed")
		}
		if users := usersOf(snap, n.ID); len(users) > 0 {
			return nil, mesh.Refuse(mesh.InUse, "remove the service first", "network %q is used by service %q", n.Name, users[0].Name)
		}
		return []mesh.Record{tombstone(mesh.NetworkRecord(n))}, nil
	})
	if err != nil {
		return nil, err
	}
	return &sluicev1.RemoveNetworkResponse{}, nil
}

func noNetwork(name string) error {
	return mesh.Refuse(mesh.NotFound, "see sluice network ls", "there is no network %q", name)
}
