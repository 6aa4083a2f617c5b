package scenarios

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// change is a step that alters the cluster and asks nothing.
func change(f func(w *world) error) func(r *run, s Step) {
	return func(r *run, s Step) {
		if err := f(r.world); err != nil {
			r.fail(s, "%v", err)
		}
		r.dirty = true
	}
}

// flags are what service and update may say.
type flags struct {
	publish   []mesh.PublishedPort
	networks  []string
	scheduler mesh.Scheduler
	affinity  time.Duration
}

// onto puts what was said into a service.
func (f flags) onto(s *mesh.Service) {
	if f.publish != nil {
		s.Publish = f.publish
	}
	if f.scheduler != "" {
		s.Scheduler = f.scheduler
	}
	if f.affinity != 0 {
		s.Affinity = f.affinity
	}
}

func (w *words) flags() (f flags, err error) {
	for len(w.left) > 0 && err == nil {
		switch flag := w.next(); flag {
		case "--publish":
			var ports []mesh.PublishedPort
			ports, err = publications(w.next())
			f.publish = append(f.publish, ports...)
		case "--network":
			var name string
			if name, err = w.need("the network's name"); err == nil {
				f.networks = append(f.networks, name)
			}
		case "--scheduler":
			if f.scheduler = mesh.Scheduler(w.next()); !slices.Contains(mesh.Schedulers(), f.scheduler) {
				err = fmt.Errorf("scheduler %q is none of %v", f.scheduler, mesh.Schedulers())
			}
		case "--affinity":
			f.affinity, err = time.ParseDuration(w.next())
		default:
			err = fmt.Errorf("there is no flag %q", flag)
		}
	}
	return f, err
}

// publications reads a SPEC as the command line does; without a protocol it is for both.
func publications(spec string) ([]mesh.PublishedPort, error) {
	if strings.Contains(spec, "/") {
		return mesh.ParsePublish(spec)
	}
	tcp, err := mesh.ParsePublish(spec + "/tcp")
	if err != nil {
		return nil, err
	}
	udp, err := mesh.ParsePublish(spec + "/udp")
	return append(tcp, udp...), err
}

func parseService(w *words) (func(r *run, s Step), error) {
	name, err := w.need("the service's name")
	if err != nil {
		return nil, err
	}
	f, err := w.flags()
	return change(func(w *world) error { return w.service(name, f) }), err
}

func parseUpdate(w *words) (func(r *run, s Step), error) {
	name, err := w.need("the service's name")
	if err != nil {
		return nil, err
	}
	f, err := w.flags()
	return change(func(w *world) error {
		return w.editService(name, f.onto)
	}), err
}

func parseRename(w *words) (func(r *run, s Step), error) {
	from, to := w.next(), w.next()
	if to == "" {
		return nil, errors.New("write rename OLD NEW")
	}
	return change(func(w *world) error {
		return w.editService(from, func(s *mesh.Service) { s.Name = to })
	}), nil
}

func parseRemove(w *words) (func(r *run, s Step), error) {
	name, err := w.need("the service's name")
	return change(func(w *world) error { return w.removeService(name) }), err
}

// parseMany makes services s1 to sN on ports from PORT on.
func parseMany(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many")
	if err != nil {
		return nil, err
	}
	port, err := w.number("the first port")
	return change(func(w *world) error {
		for i := range n {
			publish, err := publications(fmt.Sprintf("%d:80", port+i))
			if err != nil {
				return err
			}
			name := fmt.Sprintf("s%d", i+1)
			if err := w.service(name, flags{publish: publish}); err != nil {
				return err
			}
		}
		return nil
	}), err
}

func parseEndpoint(w *words) (func(r *run, s Step), error) {
	service, name, node := w.next(), w.next(), w.next()
	if !isNode(node) {
		return nil, errors.New("write endpoint SERVICE NAME NODE, the node one of n1, n2, n3")
	}
	weight := 1
	var err error
	if w.take("--weight") {
		weight, err = w.number("the weight")
	}
	return change(func(w *world) error { return w.endpoint(service, name, node, weight) }), err
}

func parseWeight(w *words) (func(r *run, s Step), error) {
	name := w.next()
	weight, err := w.number("the weight")
	return change(func(w *world) error {
		return w.editEndpoint(name, func(e *mesh.Endpoint) { e.Weight = weight })
	}), err
}

func parseState(state mesh.EndpointState) verb {
	return func(w *words) (func(r *run, s Step), error) {
		name, err := w.need("the endpoint's name")
		return change(func(w *world) error {
			return w.editEndpoint(name, func(e *mesh.Endpoint) { e.State = state })
		}), err
	}
}

func parseLeave(w *words) (func(r *run, s Step), error) {
	name, err := w.need("the endpoint's name")
	return change(func(w *world) error { return w.removeEndpoint(name) }), err
}

func (w *words) node() (string, error) {
	name := w.next()
	if !isNode(name) {
		return "", fmt.Errorf("%q is none of n1, n2, n3", name)
	}
	return name, nil
}

func parseGone(w *words) (func(r *run, s Step), error) {
	node, err := w.node()
	return change(func(w *world) error { w.gone[node] = true; return nil }), err
}

func parseBack(w *words) (func(r *run, s Step), error) {
	node, err := w.node()
	return change(func(w *world) error { delete(w.gone, node); return nil }), err
}

func parseHeld(w *words) (func(r *run, s Step), error) {
	node, err := w.node()
	if err != nil {
		return nil, err
	}
	port, err := w.number("the port")
	return change(func(w *world) error {
		for _, proto := range []mesh.Proto{mesh.TCP, mesh.UDP} {
			w.held[node] = append(w.held[node], mesh.HeldPort{Proto: proto, Published: uint16(port), By: "a process"})
		}
		return nil
	}), err
}

func parseFree(w *words) (func(r *run, s Step), error) {
	node, err := w.node()
	return change(func(w *world) error { delete(w.held, node); return nil }), err
}

func parseSettle(*words) (func(r *run, s Step), error) {
	return func(r *run, s Step) { r.settle(s) }, nil
}
