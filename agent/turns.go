package agent

import (
	"context"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// turnLimit is how long a call over TCP waits for the machine.
const turnLimit = 5 * time.Second

// looksAtMachine tells whether a method has the machine for itself while it looks, so that the loop
// waits for it.
func looksAtMachine(method string) bool {
	switch method {
	case sluicev1.StatusService_GetPlan_FullMethodName, sluicev1.StatusService_Explain_FullMethodName, sluicev1.DoctorService_Examine_FullMethodName:
		return true
	default:
		return false
	}
}

// turns lets one such call over TCP at a time of viewers, and one of all others, come as far as the
// loop: who waits there comes in the order of coming, a round like each call. Safe for concurrent use.
type turns struct{ viewers, others chan struct{} } // each holds one token while a call is under way

func newTurns() turns { return turns{make(chan struct{}, 1), make(chan struct{}, 1)} }

// take waits for a turn, which done ends.
func (t turns) take(ctx context.Context, role trust.Role) (done func(), err error) {
	turn := t.others
	if role == trust.RoleViewer {
		turn = t.viewers
	}
	limit := time.NewTimer(turnLimit)
	defer limit.Stop()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-limit.C:
		return nil, mesh.Refuse(TooManyCalls, "try again", "others have looked at this node's machine for %s", turnLimit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
