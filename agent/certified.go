package agent

import (
	"bytes"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// certified remembers which certificates were found good, as reading one takes longer than
// all else of a packet. Safe for concurrent use.
type certified struct {
	mu    sync.Mutex
	known map[mesh.NodeID]goodCert
}

type goodCert struct {
	cert  []byte
	by    trust.Pin
	until time.Time
}

// certifiedLimit bounds what is remembered. More nodes than these have their certificates read again.
const certifiedLimit = 4096

// certifiedFor is how long a certificate is not looked at again, however long it lasts.
const certifiedFor = time.Hour

func (c *certified) has(node mesh.NodeID, cert []byte, by *trust.Authority, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	g, ok := c.known[node]
	return ok && now.Before(g.until) && g.by == by.Pin() && bytes.Equal(g.cert, cert)
}

func (c *certified) put(id trust.Identity, cert []byte, by *trust.Authority, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= certifiedLimit {
		c.known = map[mesh.NodeID]goodCert{}
	}
	until := now.Add(certifiedFor)
	if id.NotAfter.Before(until) {
		until = id.NotAfter
	}
	c.known[id.Node] = goodCert{bytes.Clone(cert), by.Pin(), until}
}
