package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// agreement is whether all nodes hold the same records, as far as they were asked. Safe for
// concurrent use.
type agreement struct {
	cluster *cluster

	mu   sync.Mutex
	last agreed
}

// agreed is what a census found.
type agreed struct {
	since  time.Time     // since when all that are heard agree, as far as it was looked; zero: they do not
	differ []mesh.NodeID // hold other records, or did not answer; sorted
	silent []mesh.NodeID // gossip does not hear them; sorted
}

const (
	censusWait   = 300 * time.Millisecond // for answers
	censusPeriod = 5 * time.Second        // between two of a small cluster
	censusShare  = 20                     // nodes: with so many more it is so many times rarer
)

// run keeps since true: a census is one datagram to each node and one back.
func (a *agreement) run(ctx context.Context) error {
	for {
		_, snap := a.cluster.membership()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(censusPeriod * time.Duration(1+len(snap.Nodes)/censusShare)):
		}
		a.look(ctx)
	}
}

// look asks all now.
func (a *agreement) look(ctx context.Context) agreed {
	now := a.ask(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(now.differ) == 0 {
		now.since = a.last.since
		if now.since.IsZero() {
			now.since = a.cluster.now()
		}
	}
	a.last = now
	return now
}

func (a *agreement) ask(ctx context.Context) agreed {
	c := a.cluster
	c.mu.Lock()
	g, nodes := c.members, c.snapshotLocked().Nodes
	c.mu.Unlock()
	var found agreed
	var votes map[mesh.NodeID]mesh.Sum
	if g != nil {
		ctx, cancel := context.WithTimeout(ctx, censusWait)
		defer cancel()
		votes = g.Census(ctx)
	}
	root := c.Root()
	for _, n := range nodes {
		switch vote, voted := votes[n.ID]; {
		case n.ID == c.own.ID || voted && vote == root:
		case !voted && !c.liveness(n.ID).alive:
			found.silent = append(found.silent, n.ID)
		default:
			found.differ = append(found.differ, n.ID)
		}
	}
	slices.Sort(found.differ)
	slices.Sort(found.silent)
	return found
}
