package agent

import (
	"cmp"
	"context"
	"math"
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
	wish, err := fromNetwork(req)
	if err != nil {
		return nil, err
	}
	wish.ID = newID[mesh.NetworkID]()
	err = s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n, err := mesh.NewNetwork(snap, wish)
		if err != nil {
			return nil, err
		}
		return []mesh.Record{mesh.NetworkRecord(n)}, nil
	})
	if err != nil {
		return nil, err
	}
	snap := s.cluster.snapshot()
	n := snap.Network(wish.ID)
	if n == nil {
		return nil, mesh.Refuse(mesh.NotFound, "create it again", "network %q was removed meanwhile", req.GetName())
	}
	return &sluicev1.CreateNetworkResponse{Network: toNetwork(n, snap)}, nil
}

// fromNetwork is what a request wishes, but for the ID.
func fromNetwork(req *sluicev1.CreateNetworkRequest) (wish mesh.NetworkWish, err error) {
	wish = mesh.NetworkWish{
		Name: req.GetName(), Driver: mesh.Driver(cmp.Or(req.GetDriver(), string(mesh.Overlay))),
		Internal: req.GetInternal(), Apart: req.GetNoIcc(), Routed: req.GetDirectRouting(), MTU: int(min(req.GetMtu(), math.MaxInt32)),
	}
	if wish.Driver != mesh.Overlay && wish.Driver != mesh.Bridge {
		return wish, mesh.Refuse(mesh.BadValue, "use overlay or bridge", "there is no driver %.20q", req.GetDriver())
	}
	if wish.Routed && wish.Driver != mesh.Bridge {
		return wish, mesh.Refuse(mesh.BadValue, "use the driver bridge, or publish ports", "machines outside have no way to the addresses of an overlay")
	}
	subnets := req.GetSubnets()
	if req.GetSubnet() != "" {
		subnets = append([]string{req.GetSubnet()}, subnets...)
	}
	if wish.Subnets, err = fromSubnets(subnets); err != nil {
		return wish, err
	}
	wish.Gateways, err = fromAddrs(req.GetGateways())
	return wish, err
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
	if n.Bridged() {
		return nil, mesh.Refuse(mesh.Unsupported, "make another network, and connect endpoints to it: sluice endpoint connect", "bridge network %q has the subnets that it was made with", n.Name)
	}
	return snap.Grow(n, subnets, now)
}

// GetNetwork returns one network and the endpoints on it.
func (s *networkServer) GetNetwork(_ context.Context, req *sluicev1.GetNetworkRequest) (*sluicev1.GetNetworkResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	n := snap.NetworkNamed(req.GetNetwork())
	if n == nil {
		return nil, noNetwork(req.GetNetwork())
	}
	resp := &sluicev1.GetNetworkResponse{Network: toNetwork(n, snap)}
	for _, e := range snap.Endpoints {
		if _, on := e.On(n.ID); on {
			resp.Endpoints = append(resp.Endpoints, toEndpoint(e, snap))
		}
	}
	sortByName(resp.Endpoints)
	return resp, nil
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

// RemoveNetwork removes a network that nobody uses.
func (s *networkServer) RemoveNetwork(ctx context.Context, req *sluicev1.RemoveNetworkRequest) (*sluicev1.RemoveNetworkResponse, error) {
	err := s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		n := snap.NetworkNamed(req.GetNetwork())
		if n == nil {
			return nil, noNetwork(req.GetNetwork())
		}
		if n.Ingress() {
			return nil, mesh.Refuse(mesh.InUse, "leave it: published ports need it", "the ingress network cannot be removed")
		}
		if err := unused(snap, n); err != nil {
			return nil, err
		}
		return []mesh.Record{tombstone(mesh.NetworkRecord(n))}, nil
	})
	if err != nil {
		return nil, err
	}
	return &sluicev1.RemoveNetworkResponse{}, nil
}

// unused refuses to remove a network that services use or endpoints are connected to.
func unused(snap *mesh.Snapshot, n *mesh.Network) error {
	if users := usersOf(snap, n.ID); len(users) > 0 {
		return mesh.Refuse(mesh.InUse, "remove the service first", "network %q is used by service %q", n.Name, users[0].Name)
	}
	for _, e := range snap.Endpoints {
		if j, joined := e.JoinedTo(n.ID); joined && !j.ByService {
			return mesh.Refuse(mesh.InUse, "disconnect the endpoint on its node first", "endpoint %q is connected to network %q", e.Name, n.Name)
		}
	}
	return nil
}

func noNetwork(name string) error {
	return mesh.Refuse(mesh.NotFound, "see sluice network ls", "there is no network %q", name)
}
