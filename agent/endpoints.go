package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// endpoints attaches and detaches the workloads of this node. Safe for
// concurrent use.
type endpoints struct {
	cluster *cluster
	loop    *loop
	status  *status
	store   *store
	watch   func(context.Context, int) (<-chan struct{}, error)
	log     *slog.Logger

	ctx      context.Context // the agent's: a watcher outlives the call that begins it
	watchers sync.WaitGroup
}

// wish is what somebody asks to attach.
type wish struct {
	service  string       // name or ID
	name     string       // "": the service's and a part of the new ID
	weight   int          // 0: 1
	fixed    []netip.Addr // that it is to have, sorted
	networks []connection // what it is to be on single ones
	netns    string       // a file, or
	pid      int          // a process in the namespace
	untilPID int          // 0: until detached
}

// shortID is how many characters of an ID a made name ends with.
const shortID = 6

// propose is the endpoint that a wish means, or why it may not be.
func (w wish) propose(snap *mesh.Snapshot, self mesh.NodeID, id mesh.EndpointID, now uint64) (*mesh.Endpoint, error) {
	service := snap.ServiceNamed(w.service)
	if service == nil {
		return nil, noService(w.service)
	}
	if len(service.Uses())+len(w.networks) == 0 {
		return nil, mesh.Refuse(NoInterface, "publish a port, or give the service or the endpoint a --network", "service %q has neither, so its endpoints would have no interface", service.Name)
	}
	e := &mesh.Endpoint{ID: id, Name: w.name, Service: service.ID, Node: self, State: mesh.Ready, Weight: w.weight, Fixed: w.fixed}
	if e.Name == "" {
		e.Name = service.Name + "." + string(id)[:shortID]
	}
	if e.Weight == 0 {
		e.Weight = 1
	}
	for _, c := range w.networks {
		var err error
		if e, err = c.connect(snap, e, service); err != nil {
			return nil, err
		}
	}
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if other := snap.EndpointNamed(e.Name); other != nil {
		return nil, mesh.Refuse(mesh.NameTaken, "choose another name, or detach that endpoint", "an endpoint named %q exists", e.Name)
	}
	return e, cmp.Or(snap.CheckFixed(e, now), checkMACs(snap, e), snap.CheckEndpointNames(e, nil))
}

// path is a file that is the namespace which the wish names.
func (w wish) path() (string, error) {
	switch {
	case (w.netns == "") == (w.pid == 0):
		return "", mesh.Refuse(mesh.BadValue, "give one of --netns and --pid", "the namespace is not named once")
	case w.pid != 0:
		return "/proc/" + strconv.Itoa(w.pid) + "/ns/net", nil
	case !filepath.IsAbs(w.netns):
		return "", mesh.Refuse(mesh.BadValue, "give an absolute path", "%q is a path of another directory than the agent's", w.netns)
	default:
		return w.netns, nil
	}
}

// attach makes a namespace an endpoint. It returns once the endpoint can be used
// on this node; where it cannot, everything is undone and the reason returned.
func (e *endpoints) attach(ctx context.Context, w wish) (mesh.EndpointID, error) {
	path, err := w.path()
	if err != nil {
		return "", err
	}
	life, ended, err := e.follow(w.untilPID)
	if err != nil {
		return "", err
	}
	id := newID[mesh.EndpointID]()
	rev, err := e.record(ctx, w, id, path, life)
	if err != nil {
		e.cluster.wake() // what was pinned is let go by the next round
		return "", errors.Join(err, e.store.dropLifetime(id))
	}
	err = e.loop.wait(ctx, rev)
	if err == nil {
		err = e.status.endpoint(id)
	}
	if err != nil {
		return "", errors.Join(err, e.undone(ctx, func() (uint64, error) { return e.drop(id) }))
	}
	e.detachAfter(id, ended)
	return id, nil
}

// undone takes back what a refused call wrote and returns once nothing of it is in the kernel
// either: who is told the reason may look, or try again, at once. A caller who has gone is not
// waited for.
func (e *endpoints) undone(ctx context.Context, takeBack func() (uint64, error)) error {
	rev, err := takeBack()
	if err != nil || ctx.Err() != nil {
		return err
	}
	return e.loop.wait(ctx, rev)
}

// record pins the namespace and then writes the endpoint, as one step for the
// loop: a record without a namespace could not be built, and a namespace without
// a record would be let go.
func (e *endpoints) record(ctx context.Context, w wish, id mesh.EndpointID, path string, life lifetime) (rev uint64, err error) {
	self := e.cluster.own.ID
	err = e.loop.withMachine(ctx, func(m Machine) error {
		snap := e.cluster.snapshot()
		if snap.Node(self) == nil {
			return noCluster()
		}
		if _, err := w.propose(snap, self, id, mesh.Micros(e.cluster.now())); err != nil {
			return err
		}
		if err := notTwice(m, snap.Local(self), path); err != nil {
			return err
		}
		if err := pin(m, plan.EndpointSandbox(string(id)), w); err != nil {
			return err
		}
		if life != (lifetime{}) {
			if err := e.store.putLifetime(id, life); err != nil {
				return err
			}
		}
		rev, err = e.cluster.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
			endpoint, err := w.propose(snap, self, id, e.cluster.tick())
			if err != nil {
				return nil, err
			}
			records, err := defaultBridge(snap, snap.Service(endpoint.Service))
			return append(records, mesh.EndpointRecord(endpoint)), err
		})
		return err
	})
	return rev, err
}

func pin(m Machine, sandbox string, w wish) error {
	if w.pid != 0 {
		return m.PinPID(sandbox, w.pid)
	}
	return m.Pin(sandbox, w.netns)
}

// notTwice refuses a namespace that is an endpoint's already: both would want the
// same devices in it. A path that cannot be looked at is left to Pin to refuse.
func notTwice(m Machine, local []*mesh.Endpoint, path string) error {
	want, err := os.Stat(path)
	if err != nil {
		return nil
	}
	for _, e := range local {
		have, err := os.Stat(m.Path(plan.EndpointSandbox(string(e.ID))))
		if err == nil && os.SameFile(have, want) {
			return mesh.Refuse(NamespaceTaken, "detach that endpoint first, or use a namespace for each endpoint", "%s is the namespace of endpoint %q", path, e.Name)
		}
	}
	return nil
}

// detach ends an endpoint of this node and returns once its interfaces are gone.
func (e *endpoints) detach(ctx context.Context, name string) error {
	endpoint, err := e.here(e.cluster.snapshot(), name)
	if err != nil {
		return err
	}
	rev, err := e.drop(endpoint.ID)
	if err != nil {
		return err
	}
	return e.loop.wait(ctx, rev)
}

// here finds an endpoint of this node by name or ID.
func (e *endpoints) here(snap *mesh.Snapshot, name string) (*mesh.Endpoint, error) {
	if snap.Node(e.cluster.own.ID) == nil {
		return nil, noCluster()
	}
	endpoint := snap.EndpointNamed(name)
	if endpoint == nil {
		return nil, noEndpoint(name)
	}
	if endpoint.Node != e.cluster.own.ID {
		where := string(endpoint.Node)
		if n := snap.Node(endpoint.Node); n != nil {
			where = n.Name
		}
		return nil, mesh.Refuse(NotHere, "run the command there", "endpoint %q is on node %s", name, where)
	}
	return endpoint, nil
}

// remove deletes an endpoint, wherever it stands; deleting what is not there is success.
func (e *endpoints) remove(id mesh.EndpointID) error {
	_, err := e.drop(id)
	return err
}

func (e *endpoints) drop(id mesh.EndpointID) (uint64, error) {
	rev, err := e.cluster.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		have := endpointByID(snap, id)
		if have == nil {
			return nil, nil
		}
		return []mesh.Record{tombstone(mesh.EndpointRecord(have))}, nil
	})
	if err != nil {
		return 0, err
	}
	return rev, e.store.dropLifetime(id)
}

// endpointByID does not look at names: one may be written like another's ID.
func endpointByID(snap *mesh.Snapshot, id mesh.EndpointID) *mesh.Endpoint {
	i := slices.IndexFunc(snap.Endpoints, func(e *mesh.Endpoint) bool { return e.ID == id })
	if i < 0 {
		return nil
	}
	return snap.Endpoints[i]
}

// follow begins to watch the process that an endpoint ends with. The channel is
// nil where there is none.
func (e *endpoints) follow(pid int) (lifetime, <-chan struct{}, error) {
	if pid == 0 {
		return lifetime{}, nil, nil
	}
	ended, err := e.watch(e.ctx, pid)
	if err != nil {
		return lifetime{}, nil, mesh.Refuse(mesh.NotFound, "give the ID of a process that lives", "process %d cannot be watched (%v)", pid, err)
	}
	life, err := lifetimeOf(pid)
	if err != nil {
		return lifetime{}, nil, mesh.Refuse(mesh.NotFound, "give the ID of a process that lives", "process %d has ended (%v)", pid, err)
	}
	return life, ended, nil
}

// detachAfter detaches the endpoint when its process has ended.
func (e *endpoints) detachAfter(id mesh.EndpointID, ended <-chan struct{}) {
	if ended == nil {
		return
	}
	e.watchers.Go(func() {
		select {
		case <-e.ctx.Done():
			return
		case <-ended:
		}
		if e.ctx.Err() != nil {
			return // the watch ended with the agent, not with the process
		}
		e.log.Info("an endpoint's process has ended", "endpoint", id)
		if err := e.remove(id); err != nil {
			e.log.Error("an endpoint was not detached", "endpoint", id, "err", err)
		}
	})
}

// restore takes up the endpoints of before a restart: one whose namespace or
// process is gone is deleted, the others are watched again.
func (e *endpoints) restore(m Machine, lifetimes map[mesh.EndpointID]lifetime) error {
	local := e.cluster.snapshot().Local(e.cluster.own.ID)
	known := map[mesh.EndpointID]bool{}
	for _, endpoint := range local {
		known[endpoint.ID] = true
		if err := e.restoreOne(m, endpoint, lifetimes[endpoint.ID]); err != nil {
			return fmt.Errorf("restore endpoint %s: %w", endpoint.Name, err)
		}
	}
	for id := range lifetimes {
		if !known[id] {
			if err := e.store.dropLifetime(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *endpoints) restoreOne(m Machine, endpoint *mesh.Endpoint, life lifetime) error {
	if !m.Pinned(plan.EndpointSandbox(string(endpoint.ID))) {
		e.log.Info("an endpoint's namespace is gone", "endpoint", endpoint.Name)
		return e.remove(endpoint.ID)
	}
	now, ended, err := e.follow(life.PID)
	if err != nil || now != life {
		e.log.Info("an endpoint's process has ended", "endpoint", endpoint.Name, "pid", life.PID)
		return e.remove(endpoint.ID)
	}
	e.detachAfter(endpoint.ID, ended)
	return nil
}

// close waits for the watchers, which end with the agent's context.
func (e *endpoints) close() { e.watchers.Wait() }
