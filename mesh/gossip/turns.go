package gossip

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Limits of the exchanges that others begin here.
const (
	turnLimit   = 16              // at once; each holds a frame or two
	waitLimit   = 128             // with those that wait for a turn
	turnTimeout = 2 * time.Second // to wait
)

// turns gives each node one exchange at a time, and all of them together a few. Safe for
// concurrent use.
type turns struct {
	free chan struct{}

	mu   sync.Mutex
	held map[mesh.NodeID]*turn
}

type turn struct {
	conn   io.Closer
	giveUp context.CancelFunc // ends its waiting
}

func newTurns() *turns {
	return &turns{free: make(chan struct{}, turnLimit), held: map[mesh.NodeID]*turn{}}
}

// take waits for a turn of the node and returns how to give it back; nil where there are
// too many. An exchange of the same node is closed: its other end was lost, or it would
// not begin one more.
func (t *turns) take(ctx context.Context, id mesh.NodeID, conn io.Closer) (back func()) {
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	mine := &turn{conn, cancel}
	t.mu.Lock()
	old := t.held[id]
	if old == nil && len(t.held) >= waitLimit {
		t.mu.Unlock()
		return nil
	}
	t.held[id] = mine
	t.mu.Unlock()
	if old != nil {
		old.giveUp()
		_ = old.conn.Close()
	}
	select {
	case t.free <- struct{}{}:
		return func() { <-t.free; t.drop(id, mine) }
	case <-ctx.Done():
		t.drop(id, mine)
		return nil
	}
}

func (t *turns) drop(id mesh.NodeID, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held[id] == mine {
		delete(t.held, id)
	}
}
