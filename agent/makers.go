package agent

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// keepsKeys tells whether the keys of a membership are for a node: it had them when they were
// made, or came by one that has them. Who came beside a removal may have come by the removed node.
// The lock is held.
func (c *cluster) keepsKeys(m *membership, present *step, id mesh.NodeID) bool {
	r, known := c.nodeRecordLocked(id)
	if !known || id == c.own.ID {
		return known
	}
	if present != nil && present.sealedTo(id) {
		return true
	}
	return !c.isLate(id) && r.Node != nil && c.vouched.by(m.bundle.Authority, r.Node)
}

// makers tells whose word for another CA counts: that of who has the keys of now. Whoever came by
// a removed node in its last moments, or left before, has old keys alone, and can make from them
// what it likes. It asks for each node once, and is for one goroutine.
func (c *cluster) makers(m *membership, snap *mesh.Snapshot) func(mesh.NodeID) bool {
	present, known := m.present(c.steps.of(snap)), map[mesh.NodeID]bool{}
	return func(id mesh.NodeID) bool {
		counts, ok := known[id]
		if !ok {
			c.mu.Lock()
			counts = c.keepsKeys(m, present, id)
			c.mu.Unlock()
			known[id] = counts
		}
		return counts
	}
}

// vouched remembers whose certificate is by which CA, in time or not: to read one takes longer
// than all else of what is asked.
type vouched map[mesh.NodeID]vouch

type vouch struct {
	cert []byte
	ca   trust.Pin
	good bool
}

// by tells whether a CA made a node's certificate, which may have ended since.
func (v vouched) by(a *trust.Authority, n *mesh.Node) bool {
	if one, ok := v[n.ID]; ok && one.ca == a.Pin() && bytes.Equal(one.cert, n.Cert) {
		return one.good
	}
	one := vouch{cert: n.Cert, ca: a.Pin()}
	if cert, err := x509.ParseCertificate(n.Cert); err == nil {
		id, err := a.Identify(n.Cert, cert.NotBefore)
		one.good = err == nil && id.Node == n.ID
	}
	if len(v) >= certifiedLimit {
		clear(v)
	}
	v[n.ID] = one
	return one.good
}

// guests are the nodes of a view that the cluster's present keys are not for.
func (c *cluster) guests(snap *mesh.Snapshot) []*mesh.Node {
	m, _ := c.membership()
	if m == nil || len(snap.Removals) == 0 {
		return nil
	}
	keeps := c.makers(m, snap)
	return slices.DeleteFunc(slices.Clone(snap.Nodes), func(n *mesh.Node) bool { return keeps(n.ID) })
}

// withGuests adds to the nodes that are gone those whose kernel may well answer, and who have no
// part in the cluster any more.
func (c *cluster) withGuests(gone map[mesh.NodeID]bool, snap *mesh.Snapshot) map[mesh.NodeID]bool {
	guests := c.guests(snap)
	if len(guests) == 0 {
		return gone
	}
	all := map[mesh.NodeID]bool{}
	maps.Copy(all, gone)
	for _, n := range guests {
		all[n.ID] = true
	}
	return all
}

// guestProblems are for status.
func (c *cluster) guestProblems(snap *mesh.Snapshot) []problem {
	var list []problem
	for _, n := range c.guests(snap) {
		list = append(list, problem{problemKey: problemKey{"node " + n.Name, string(NoKeys)}, detail: fmt.Sprintf(
			"node %s came in while a node was removed, perhaps by that one, and has none of the keys of now: run 'sluice leave' there and let it join by a new token, or 'sluice node rm %s'", n.ID, n.ID)})
	}
	return list
}

// keyLocked is a node's key: its record is signed by it, and its ID is the hash of it.
func (c *cluster) keyLocked(id mesh.NodeID) (trust.PublicKey, bool) {
	r, ok := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(id)})
	if !ok || len(r.Sig) < trust.KeySize {
		return trust.PublicKey{}, false
	}
	key := trust.PublicKey(r.Sig[:trust.KeySize])
	return key, key.ID() == id
}

// nodeRecord is the record of a node that this one knows and that was not removed, a tombstone
// included.
func (c *cluster) nodeRecord(id mesh.NodeID) (mesh.Record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodeRecordLocked(id)
}

func (c *cluster) nodeRecordLocked(id mesh.NodeID) (mesh.Record, bool) {
	_, removed := c.state.Get(mesh.Key{Kind: mesh.KindRemoval, ID: string(id)})
	r, known := c.state.Get(mesh.Key{Kind: mesh.KindNode, ID: string(id)})
	return r, known && !removed
}
