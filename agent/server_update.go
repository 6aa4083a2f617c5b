package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// UpdateService changes a service.
func (s *serviceServer) UpdateService(ctx context.Context, req *sluicev1.UpdateServiceRequest) (*sluicev1.UpdateServiceResponse, error) {
	change, err := s.fromUpdate(req)
	if err != nil {
		return nil, err
	}
	var id mesh.ServiceID
	var fresh []mesh.PublishedPort
	err = s.write(ctx, func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have := snap.ServiceNamed(req.GetService())
		if have == nil {
			return nil, noService(req.GetService())
		}
		id = have.ID
		next, err := change.apply(snap, have)
		if err != nil {
			return nil, err
		}
		if same(next, have) {
			return nil, nil
		}
		fresh = publishedAnew(have, next)
		return serviceRecords(snap, next)
	})
	if err != nil {
		return nil, err
	}
	s.hearHolders(ctx, fresh)
	service, err := s.service(string(id))
	if err != nil {
		return nil, err
	}
	return &sluicev1.UpdateServiceResponse{Service: service}, nil
}

// same tells whether two services are alike in all that an update changes.
func same(a, b *mesh.Service) bool {
	return a.Scheduler == b.Scheduler && a.Affinity == b.Affinity && a.Stack == b.Stack && cmp.Or(a.Mode, mesh.VirtualIP) == cmp.Or(b.Mode, mesh.VirtualIP) &&
		slices.Equal(a.Networks, b.Networks) && slices.Equal(a.Publish, b.Publish) && slices.Equal(a.Aliases, b.Aliases)
}

// publishedAnew are the ports that next publishes and have does not.
func publishedAnew(have, next *mesh.Service) []mesh.PublishedPort {
	return slices.DeleteFunc(slices.Clone(next.Publish), func(p mesh.PublishedPort) bool { return slices.Contains(have.Publish, p) })
}

// serviceChange is what an update asks for, read but not yet compared with
// what is there.
type serviceChange struct {
	networks  *sluicev1.StringList // nil: as they are
	publish   *[]mesh.PublishedPort
	add, rm   []mesh.PublishedPort
	scheduler mesh.Scheduler       // "": as it is
	affinity  *time.Duration       // nil: as it is
	aliases   *sluicev1.StringList // nil: as they are
	stack     *string              // nil: as it is
	mode      mesh.EndpointMode    // "": as it is
	reserved  func(*mesh.Snapshot, []mesh.PublishedPort) error
}

func (s *serviceServer) fromUpdate(req *sluicev1.UpdateServiceRequest) (c serviceChange, err error) {
	c = serviceChange{
		networks: req.GetNetworks(), scheduler: mesh.Scheduler(req.GetScheduler()),
		aliases: req.GetAliases(), stack: req.Stack, mode: mesh.EndpointMode(req.GetEndpointMode()),
		reserved: func(snap *mesh.Snapshot, ports []mesh.PublishedPort) error {
			return errors.Join(s.notTheAPI(ports), mesh.CheckReserved(ports, ownPorts(snap)...))
		},
	}
	if req.GetAffinity() != nil {
		affinity, err := fromAffinity(req.GetAffinity())
		if err != nil {
			return c, err
		}
		c.affinity = &affinity
	}
	if req.GetForce() {
		c.reserved = func(*mesh.Snapshot, []mesh.PublishedPort) error { return nil }
	}
	if req.GetPublish() != nil {
		all, err := parsePorts(req.GetPublish().GetValues())
		if err != nil {
			return c, err
		}
		c.publish = &all
	}
	if c.add, err = parsePorts(req.GetPublishAdd()); err != nil {
		return c, err
	}
	c.rm, err = parsePorts(req.GetPublishRm())
	return c, err
}

// apply returns the changed service, or why it may not be.
func (c serviceChange) apply(snap *mesh.Snapshot, have *mesh.Service) (*mesh.Service, error) {
	next := *have
	next.Networks, next.Publish, next.Aliases = slices.Clone(have.Networks), slices.Clone(have.Publish), slices.Clone(have.Aliases)
	next.Scheduler, next.Mode = cmp.Or(c.scheduler, have.Scheduler), cmp.Or(c.mode, have.Mode)
	if c.aliases != nil {
		next.Aliases = slices.Clone(c.aliases.GetValues())
	}
	if c.stack != nil {
		next.Stack = *c.stack
	}
	if c.affinity != nil {
		next.Affinity = *c.affinity
	}
	if c.networks != nil {
		var err error
		if next.Networks, err = networkIDs(snap, c.networks.GetValues()); err != nil {
			return nil, err
		}
	}
	if c.publish != nil {
		next.Publish = slices.Clone(*c.publish)
	}
	for _, p := range c.rm {
		i := slices.Index(next.Publish, p)
		if i < 0 {
			return nil, mesh.Refuse(mesh.NotFound, "see sluice service inspect "+have.Name, "service %q does not publish %s", have.Name, p)
		}
		next.Publish = slices.Delete(next.Publish, i, i+1)
	}
	next.Publish = append(next.Publish, c.add...)
	if err := next.Validate(); err != nil {
		return nil, err
	}
	fresh := publishedAnew(have, &next)
	if err := c.reserved(snap, fresh); err != nil {
		return nil, err
	}
	return &next, cmp.Or(snap.CheckServiceNames(&next, have), free(snap, have.ID, fresh))
}
