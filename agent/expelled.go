package agent

import (
	"net"
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

// judgedConn ends where its other end was removed since it began: an exchange of records takes
// seconds, and a removed node's would bring what is refused in packets. To take up new keys ends
// all of them, a moment later.
type judgedConn struct {
	net.Conn
	judge func() error
}

// Read refuses what came, whenever it was sent.
func (j judgedConn) Read(b []byte) (int, error) {
	n, err := j.Conn.Read(b)
	if refused := j.judge(); refused != nil {
		return 0, refused
	}
	return n, err
}

// Write refuses before it sends.
func (j judgedConn) Write(b []byte) (int, error) {
	if err := j.judge(); err != nil {
		return 0, err
	}
	return j.Conn.Write(b)
}
