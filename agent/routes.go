package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/mesh"
)

// routesPause is between two looks at the host's routes: rounds come more often than that, and
// there may be many routes.
const routesPause = 2 * time.Second

// hostRoutes is what was last seen of where the host leads elsewhere. For whoever has the machine
// in hand.
type hostRoutes struct {
	looked time.Time // zero before the first look
}

// look lets the others know where this host leads elsewhere, where that has changed: their
// networks are to avoid it.
func (h *hostRoutes) look(m Machine, c *cluster) error {
	if now := c.now(); now.Sub(h.looked).Abs() < routesPause {
		return nil
	} else {
		h.looked = now
	}
	occupied, err := m.Occupied()
	if err != nil {
		return fmt.Errorf("look at the host's routes: %w", err)
	}
	return c.tellRoutes(occupied)
}

func (c *cluster) tellRoutes(occupied []doctor.Occupied) error {
	routes := make([]mesh.Route, len(occupied))
	for i, o := range occupied {
		routes[i] = mesh.Route{Prefix: o.Prefix, By: o.By}
	}
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		own, reported := c.ownNode(), snap.ReportedRoutes(routes)
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
