package agent

import (
	"context"
	"math"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type endpointServer struct {
	sluicev1.UnimplementedEndpointServiceServer
	*api
}

// AttachEndpoint makes a namespace of this node an endpoint.
func (s *endpointServer) AttachEndpoint(ctx context.Context, req *sluicev1.AttachEndpointRequest) (*sluicev1.AttachEndpointResponse, error) {
	w, err := fromAttach(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	id, err := s.endpoints.attach(ctx, w)
	if err != nil {
		return nil, err
	}
	snap := s.cluster.snapshot()
	endpoint := endpointByID(snap, id)
	if endpoint == nil {
		return nil, mesh.Refuse(mesh.NotFound, "attach it again", "endpoint %s has ended meanwhile", id)
	}
	return &sluicev1.AttachEndpointResponse{Endpoint: toEndpoint(endpoint, snap), Held: unanswered(snap, endpoint)}, nil
}

func fromAttach(req *sluicev1.AttachEndpointRequest) (wish, error) {
	for _, pid := range []uint32{req.GetPid(), req.GetUntilPid()} {
		if pid > math.MaxInt32 {
			return wish{}, mesh.Refuse(mesh.BadValue, "give the ID of a process that lives", "%d is no process ID", pid)
		}
	}
	fixed, err := fromAddrs(req.GetAddresses())
	if err != nil {
		return wish{}, err
	}
	networks, err := fromConnections(req.GetNetworks())
	if err != nil {
		return wish{}, err
	}
	weight := int(min(req.GetWeight(), math.MaxInt32)) // Validate refuses what is too large
	return wish{
		service: req.GetService(), name: req.GetName(), weight: weight, fixed: fixed, networks: networks,
		netns: req.GetNetns(), pid: int(req.GetPid()), untilPID: int(req.GetUntilPid()),
	}, nil
}

// DrainEndpoint gives an endpoint of this node no new connections.
func (s *endpointServer) DrainEndpoint(ctx context.Context, req *sluicev1.DrainEndpointRequest) (*sluicev1.DrainEndpointResponse, error) {
	var id mesh.EndpointID
	err := s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have, err := s.endpoints.here(snap, req.GetEndpoint())
		if err != nil {
			return nil, err
		}
		id = have.ID
		if have.State == mesh.Draining {
			return nil, nil
		}
		next := *have
		next.State = mesh.Draining
		return []mesh.Record{mesh.EndpointRecord(&next)}, nil
	})
	if err != nil {
		return nil, err
	}
	snap := s.cluster.snapshot()
	endpoint := endpointByID(snap, id)
	if endpoint == nil {
		return nil, mesh.Refuse(mesh.NotFound, "it needs no draining", "endpoint %s has ended meanwhile", id)
	}
	return &sluicev1.DrainEndpointResponse{Endpoint: toEndpoint(endpoint, snap)}, nil
}

// DetachEndpoint ends an endpoint of this node.
func (s *endpointServer) DetachEndpoint(ctx context.Context, req *sluicev1.DetachEndpointRequest) (*sluicev1.DetachEndpointResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	if err := s.endpoints.detach(ctx, req.GetEndpoint()); err != nil {
		return nil, err
	}
	return &sluicev1.DetachEndpointResponse{}, nil
}

// ConnectEndpoint puts an endpoint of this node on one more network.
func (s *endpointServer) ConnectEndpoint(ctx context.Context, req *sluicev1.ConnectEndpointRequest) (*sluicev1.ConnectEndpointResponse, error) {
	c, err := fromConnection(req.GetConnection())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	id, err := s.endpoints.connect(ctx, req.GetEndpoint(), c)
	if err != nil {
		return nil, err
	}
	endpoint, err := s.endpoint(string(id))
	if err != nil {
		return nil, err
	}
	return &sluicev1.ConnectEndpointResponse{Endpoint: endpoint}, nil
}

// DisconnectEndpoint takes an endpoint of this node off a network.
func (s *endpointServer) DisconnectEndpoint(ctx context.Context, req *sluicev1.DisconnectEndpointRequest) (*sluicev1.DisconnectEndpointResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	id, err := s.endpoints.disconnect(ctx, req.GetEndpoint(), req.GetNetwork())
	if err != nil {
		return nil, err
	}
	endpoint, err := s.endpoint(string(id))
	if err != nil {
		return nil, err
	}
	return &sluicev1.DisconnectEndpointResponse{Endpoint: endpoint}, nil
}

// GetEndpoint returns one endpoint of any node.
func (s *endpointServer) GetEndpoint(_ context.Context, req *sluicev1.GetEndpointRequest) (*sluicev1.GetEndpointResponse, error) {
	endpoint, err := s.endpoint(req.GetEndpoint())
	if err != nil {
		return nil, err
	}
	return &sluicev1.GetEndpointResponse{Endpoint: endpoint}, nil
}

func (s *endpointServer) endpoint(name string) (*sluicev1.Endpoint, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	endpoint := snap.EndpointNamed(name)
	if endpoint == nil {
		return nil, noEndpoint(name)
	}
	return toEndpoint(endpoint, snap), nil
}

func noEndpoint(name string) error {
	return mesh.Refuse(mesh.NotFound, "see sluice endpoint ls", "there is no endpoint %q", name)
}

// ListEndpoints lists the endpoints of all nodes.
func (s *endpointServer) ListEndpoints(_ context.Context, req *sluicev1.ListEndpointsRequest) (*sluicev1.ListEndpointsResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	endpoints := snap.Endpoints
	if name := req.GetService(); name != "" {
		service := snap.ServiceNamed(name)
		if service == nil {
			return nil, noService(name)
		}
		endpoints = snap.EndpointsOf(service.ID)
	}
	resp := &sluicev1.ListEndpointsResponse{}
	for _, e := range endpoints {
		resp.Endpoints = append(resp.Endpoints, toEndpoint(e, snap))
	}
	sortByName(resp.Endpoints)
	return resp, nil
}
