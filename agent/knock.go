package agent

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// knocks ask nodes that have no endpoint, and so nothing that answers in the tunnel: once
// gossip does not hear one, its gossip port is dialled. A refusal is an answer: the kernel
// gives it where no agent listens. Only what such a node brings in is at stake; see plan.Zone.
type knocks struct {
	knock func(ctx context.Context, to netip.AddrPort) (answered bool, err error)
	came  chan knocked
	tasks sync.WaitGroup
}

// knocked is how one knock ended.
type knocked struct {
	node     mesh.NodeID
	sequence uint16
	answered bool
	err      error // it could not be asked
}

// knocksWaiting is more than there are nodes to ask between two turns; what is lost is one miss.
const knocksWaiting = 1024

func newKnocks(knock func(context.Context, netip.AddrPort) (bool, error)) *knocks {
	return &knocks{knock: knock, came: make(chan knocked, knocksWaiting)}
}

// knockWait is how long a far or busy node may take: an answer that is late counts, as an
// echo's does.
const knockWait = 2 * time.Second

// send knocks at a node and does not wait. It ends after knockWait, or with ctx.
func (k *knocks) send(ctx context.Context, node mesh.NodeID, to netip.AddrPort, sequence uint16) {
	k.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, knockWait)
		defer cancel()
		answered, err := k.knock(ctx, to)
		select {
		case k.came <- knocked{node, sequence, answered, err}:
		default:
		}
	})
}

// take gives what came by now to each.
func (k *knocks) take(each func(knocked)) {
	for {
		select {
		case one := <-k.came:
			each(one)
		default:
			return
		}
	}
}
