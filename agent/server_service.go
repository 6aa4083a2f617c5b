package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type serviceServer struct {
	sluicev1.UnimplementedServiceServiceServer
	*api
}

// CreateService makes a service.
func (s *serviceServer) CreateService(ctx context.Context, req *sluicev1.CreateServiceRequest) (*sluicev1.CreateServiceResponse, error) {
	ports, err := parsePorts(req.GetPublish())
	if err != nil {
		return nil, err
	}
	if !req.GetForce() {
		if err := s.notTheAPI(ports); err != nil {
			return nil, err
		}
	}
	id := newID[mesh.ServiceID]()
	err = s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		service, err := newService(snap, id, req, ports)
		if err != nil {
			return nil, err
		}
		return serviceRecords(snap, service)
	})
	if err != nil {
		return nil, err
	}
	s.hearHolders(ctx, ports)
	service, err := s.service(string(id))
	if err != nil {
		return nil, err
	}
	return &sluicev1.CreateServiceResponse{Service: service}, nil
}

// parsePorts reads what a request publishes.
func parsePorts(specs []string) ([]mesh.PublishedPort, error) {
	var ports []mesh.PublishedPort
	for _, spec := range specs {
		some, err := mesh.ParsePublish(spec)
		if err != nil {
			return nil, err
		}
		ports = append(ports, some...)
	}
	return ports, nil
}

// notTheAPI refuses the port at which the API is called here.
func (a *api) notTheAPI(ports []mesh.PublishedPort) error {
	if !a.config.API.IsValid() {
		return nil
	}
	return mesh.CheckReserved(ports, a.config.API.Port())
}

// ownPorts are those of sluice itself on any node: a published port is taken on all of them.
func ownPorts(snap *mesh.Snapshot) []uint16 {
	var ports []uint16
	for _, n := range snap.Nodes {
		ports = append(ports, n.GossipPort, n.VXLANPort)
	}
	return ports
}

// newService is the service that a request means, or why it may not be.
func newService(snap *mesh.Snapshot, id mesh.ServiceID, req *sluicev1.CreateServiceRequest, ports []mesh.PublishedPort) (*mesh.Service, error) {
	service := &mesh.Service{
		ID: id, Name: req.GetName(), Publish: ports, Scheduler: cmp.Or(mesh.Scheduler(req.GetScheduler()), mesh.RoundRobin),
		Aliases: slices.Clone(req.GetAliases()), Stack: req.GetStack(), Mode: cmp.Or(mesh.EndpointMode(req.GetEndpointMode()), mesh.VirtualIP),
	}
	var err error
	if service.Affinity, err = fromAffinity(req.GetAffinity()); err != nil {
		return nil, err
	}
	if service.Networks, err = networkIDs(snap, req.GetNetworks()); err != nil {
		return nil, err
	}
	if err := service.Validate(); err != nil {
		return nil, err
	}
	if !req.GetForce() {
		if err := mesh.CheckReserved(ports, ownPorts(snap)...); err != nil {
			return nil, err
		}
	}
	if snap.ServiceNamed(service.Name) != nil {
		return nil, mesh.Refuse(mesh.NameTaken, "choose another name, or remove that service", "a service named %q exists", service.Name)
	}
	return service, cmp.Or(snap.CheckServiceNames(service, nil), free(snap, id, ports))
}

// serviceRecords are what is written of a service: its record with the virtual addresses that it has from now on,
// and before it that of the bridge network that it is on by default, where there is none yet.
func serviceRecords(snap *mesh.Snapshot, service *mesh.Service) ([]mesh.Record, error) {
	virtual, err := snap.ChooseVirtual(service)
	if err != nil {
		return nil, err
	}
	service.Virtual = virtual
	records, err := defaultBridge(snap, service)
	if err != nil {
		return nil, err
	}
	return append(records, mesh.ServiceRecord(service)), nil
}

// defaultBridge is the record of the network mesh.DefaultBridge, where a service is on it and there
// is none.
func defaultBridge(snap *mesh.Snapshot, service *mesh.Service) ([]mesh.Record, error) {
	if !slices.Contains(service.Uses(), mesh.DefaultBridge) || snap.Network(mesh.DefaultBridge) != nil {
		return nil, nil
	}
	if other := snap.NetworkNamed(mesh.DefaultBridgeName); other != nil && other.ID != mesh.DefaultBridge {
		if was := snap.Service(service.ID); was != nil && slices.Contains(was.Uses(), mesh.DefaultBridge) {
			return nil, nil // it goes on without, as it has
		}
		return nil, mesh.Refuse(mesh.NameTaken, "give the service a --network, or remove that network",
			"ports of mode host put service %q on a network named %s, and there is another one of that name", service.Name, mesh.DefaultBridgeName)
	}
	n, err := mesh.NewDefaultBridge(snap)
	if err != nil {
		return nil, err
	}
	return []mesh.Record{mesh.NetworkRecord(n)}, nil
}

// networkIDs finds networks that a service may be on.
func networkIDs(snap *mesh.Snapshot, names []string) ([]mesh.NetworkID, error) {
	var ids []mesh.NetworkID
	for _, name := range names {
		n := snap.NetworkNamed(name)
		if n == nil {
			return nil, noNetwork(name)
		}
		if n.Ingress() {
			return nil, mesh.Refuse(mesh.BadValue, "leave it out: --publish puts the endpoints on it", "the ingress network is not one to name")
		}
		ids = append(ids, n.ID)
	}
	return ids, nil
}

// free refuses ports that another service than id holds. Two of mode host are for the nodes that
// have endpoints of one service only.
func free(snap *mesh.Snapshot, id mesh.ServiceID, ports []mesh.PublishedPort) error {
	for _, p := range ports {
		for _, f := range snap.Fronts {
			meshed := f.Port.Mode == mesh.Meshed || p.Mode == mesh.Meshed
			if meshed && f.Service.ID != id && f.Port.Overlaps(p) {
				return mesh.Refuse(mesh.PortTaken, "choose another port, or remove that service", "port %s is published by service %q", f.Port.Front(), f.Service.Name)
			}
		}
	}
	return nil
}

// ListServices lists the services.
func (s *serviceServer) ListServices(context.Context, *sluicev1.ListServicesRequest) (*sluicev1.ListServicesResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.ListServicesResponse{}
	for _, service := range snap.Services {
		resp.Services = append(resp.Services, toService(service, snap))
	}
	sortByName(resp.Services)
	return resp, nil
}

// GetService returns one service.
func (s *serviceServer) GetService(_ context.Context, req *sluicev1.GetServiceRequest) (*sluicev1.GetServiceResponse, error) {
	service, err := s.service(req.GetService())
	if err != nil {
		return nil, err
	}
	return &sluicev1.GetServiceResponse{Service: service}, nil
}

func (s *serviceServer) service(name string) (*sluicev1.Service, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	service := snap.ServiceNamed(name)
	if service == nil {
		return nil, noService(name)
	}
	return toService(service, snap), nil
}

func noService(name string) error {
	return mesh.Refuse(mesh.NotFound, "see sluice service ls", "there is no service %q", name)
}

// RemoveService removes a service; each node detaches its endpoints.
func (s *serviceServer) RemoveService(ctx context.Context, req *sluicev1.RemoveServiceRequest) (*sluicev1.RemoveServiceResponse, error) {
	err := s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		service := snap.ServiceNamed(req.GetService())
		if service == nil {
			return nil, noService(req.GetService())
		}
		return []mesh.Record{tombstone(mesh.ServiceRecord(service))}, nil
	})
	if err != nil {
		return nil, err
	}
	return &sluicev1.RemoveServiceResponse{}, nil
}
