package sim

import (
	"fmt"
	"testing"
	"time"
)

// A node whose clock is so far behind that it refuses what the others write agrees with them soon
// after its clock is set, however long that took.
func TestClockSet(t *testing.T) {
	for _, late := range []time.Duration{5 * time.Second, 3 * time.Minute} {
		inWorld(t, 5, func(w *World, d digests) {
			n := w.Nodes[4]
			n.skew.Store(int64(-26 * time.Hour))
			for i := range 5 {
				create(t, w, i%4, fmt.Sprintf("web%d", i))
				time.Sleep(late / 5)
			}
			if err := w.Agreed(d); err == nil {
				t.Error("nothing was refused")
			}
			n.skew.Store(0)
			if took, err := Within(10*time.Second, 50*time.Millisecond, func() error { return w.Agreed(d) }); err != nil {
				t.Errorf("set after %v: after %v: %v", late, took, err)
			}
		})
	}
}
