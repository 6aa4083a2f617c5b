package agent

import (
	"sync"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// expelled are the nodes that were removed, for those who may not wait for the cluster's
// lock. Safe for concurrent use.
type expelled struct {
	mu    sync.Mutex
	nodes map[mesh.NodeID]bool
}

func (e *expelled) add(id mesh.NodeID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes == nil {
		e.nodes = map[mesh.NodeID]bool{}
	}
	e.nodes[id] = true
}

func (e *expelled) clear() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.nodes)
}

// admit refuses a member that was removed a moment ago.
func (e *expelled) admit(id trust.Identity) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[id.Node] {
		return mesh.Refuse(NodeRemoved, "reset it with 'sluice reset' and let it join by a new token", "node %s was removed", id.Node)
	}
	return nil
}
