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
	subnet, err := fromPrefix("subnet", req.GetSubnet(), netip.Prefix{})
	if err != nil {
		return nil, err
	}
	id := newID[mesh.NetworkID]()
	err = s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := mesh.NewNetwork(snap, id, req.GetName(), subnet)
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
