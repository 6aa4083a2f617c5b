package agent

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// openingLimit is how long a reader may take over what there is first.
const openingLimit = time.Minute

// opening is what a reader of the cluster's objects is to get first. It is taken away from one that
// is too slow, as nobody can end its waiting: what it holds is that moment's state. Safe for
// concurrent use.
type opening struct {
	until time.Time

	mu   sync.Mutex
	rest []*sluicev1.Change
	over bool
}

// take gives the next part, about batchBytes at most; none at the end.
func (o *opening) take() ([]*sluicev1.Change, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return nil, mesh.Refuse(TooSlow, "read faster, and watch again", "what there is was not read in %s", openingLimit)
	}
	n := 0
	for bytes := 0; n < len(o.rest) && n < ringBatch && bytes < batchBytes; n++ {
		bytes += proto.Size(o.rest[n])
	}
	part := o.rest[:n:n]
	o.rest = o.rest[n:]
	if len(o.rest) == 0 {
		o.rest = nil
	}
	return part, nil
}

// cut takes away what was not taken.
func (o *opening) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = o.rest != nil
	o.rest = nil
}
