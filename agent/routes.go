package agent

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/mesh"
)

// Between two looks at the host's routes: rounds come more often than that. A host may have the
// whole Internet's routes: it is to spend a small part of its time on looking at them.
const (
	routesPause     = 2 * time.Second
	routesPauseMost = time.Minute
	routesShare     = 20 // the pause is so many times what a look cost
)

// hostRoutes is what was last seen of where the host leads elsewhere. For whoever has the machine
// in hand.
type hostRoutes struct {
	looked   time.Time // zero before the first look
	pause    time.Duration
	of       uint64 // what reported was made from
	reported []mesh.Route
}

// look lets the others know where this host leads elsewhere, where that has changed: their
// networks are to avoid it.
func (h *hostRoutes) look(m Machine, c *cluster) error {
	began := c.now()
	if began.Sub(h.looked).Abs() < h.pause {
		return nil
	}
	occupied, err := m.Occupied()
	if err == nil {
		h.report(occupied, c.snapshot())
	}
	h.looked = c.now()
	h.pause = min(max(routesPause, routesShare*h.looked.Sub(began)), routesPauseMost)
	if err != nil {
		return fmt.Errorf("look at the host's routes: %w", err)
	}
	return c.tellRoutes(h.reported)
}

// report makes what is to be told, where it may have changed: that takes seconds where there are
// many routes.
func (h *hostRoutes) report(occupied []doctor.Occupied, snap *mesh.Snapshot) {
	of := digestOf(occupied, snap)
	if h.of == of {
		return
	}
	routes := make([]mesh.Route, len(occupied))
	for i, o := range occupied {
		routes[i] = mesh.Route{Prefix: o.Prefix, By: o.By}
	}
	h.of, h.reported = of, snap.ReportedRoutes(routes)
}

// digestOf is another number where the routes, or the networks that they may concern, are others.
func digestOf(occupied []doctor.Occupied, snap *mesh.Snapshot) uint64 {
	h := fnv.New64a()
	var text []byte
	add := func(p netip.Prefix, by string) {
		text = append(p.AppendTo(text[:0]), by...)
		h.Write(append(text, 0))
	}
	for _, o := range occupied {
		add(o.Prefix, o.By)
	}
	for _, n := range snap.Networks {
		add(n.Pool, string(n.ID))
		for _, p := range n.Subnets() {
			add(p, "")
		}
	}
	return h.Sum64()
}

func (c *cluster) tellRoutes(reported []mesh.Route) error {
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		own := c.ownNode()
		if snap.Node(own.ID) == nil || slices.Equal(own.Routes, reported) {
			return nil, nil
		}
		return []mesh.Record{mesh.NodeRecord(own.WithRoutes(reported))}, nil
	})
	if mesh.ReasonOf(err) == NoCluster {
		return nil
	}
	return err
}

// SubnetConflict is the reason of a problem: a node has a route into a network's subnet.
const SubnetConflict mesh.Reason = "SubnetConflict"

// routeProblems are the routes of any node that lead into a network: one problem for a network
// and a node.
func routeProblems(snap *mesh.Snapshot) []problem {
	var list []problem
	for _, c := range snap.RouteConflicts() {
		list = append(list, problem{
			problemKey: problemKey{fmt.Sprintf("network %s at node %s", c.Network.Name, c.Node.Name), string(SubnetConflict)},
			detail: fmt.Sprintf("node %q has a route to %s (%s), which is in subnet %s of network %q: remove the route there, or make another network without that subnet",
				c.Node.Name, c.Route.Prefix, c.Route.By, c.Subnet, c.Network.Name),
		})
	}
	return list
}
