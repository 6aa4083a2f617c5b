package gossip

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Whichever side does not take a record, the next exchanges leave it out, and it alone, until it
// is another one or a while has passed.
func TestRefusedRecordsAreLeftOut(t *testing.T) {
	for name, asks := range map[string]bool{"the side that asks": true, "the side that is asked": false} {
		synctest.Test(t, func(t *testing.T) {
			has, picky := newMemory(), newMemory()
			tried := 0
			picky.refuse = func(r mesh.Record) bool {
				if r.ID == service(1).ID {
					tried++
					return r.Version.Time < 9
				}
				return false
			}
			remembered := newRefused()
			meet := func(what string, want int) {
				t.Helper()
				a, b := has, picky
				if asks {
					a, b = picky, has
				}
				swapRemembering(t, a, b, remembered)
				if tried != want {
					t.Errorf("%s refuses, %s: it was tried %d times, not %d", name, what, tried, want)
				}
			}
			has.Merge([]mesh.Record{serviceAt(t, 1, 1)})
			if asks {
				meet("at first, when all is fetched, and then each that is not there", 2)
				tried--
			} else {
				meet("at first", 1)
			}
			meet("again", 1)
			has.Merge([]mesh.Record{serviceAt(t, 2, 1)})
			meet("with another one", 1)
			if _, ok := picky.get(service(2).Key()); !ok {
				t.Errorf("%s refuses: the other record did not arrive", name)
			}
			has.Merge([]mesh.Record{serviceAt(t, 1, 2)})
			meet("changed", 2)
			meet("changed, again", 2)
			time.Sleep(refusedFor + time.Second)
			meet("later", 3)
			has.Merge([]mesh.Record{serviceAt(t, 1, 9)})
			meet("as it is to be", 4)
			if picky.Root() != has.Root() {
				t.Errorf("%s refuses nothing any more, and they differ", name)
			}
		})
	}
}

// However many records are refused, a bounded number of them is remembered, and who goes makes room.
func TestRefusedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefused()
		one := func(i int) refusal { return refusal{nodeID(1), service(i).Key(), short{}} }
		for i := range 2 * refusedLimit {
			r.note(one(i))
		}
		if len(r.until) != refusedLimit || !r.has(one(0)) || r.has(one(refusedLimit)) {
			t.Errorf("%d are remembered", len(r.until))
		}
		time.Sleep(refusedFor + time.Second)
		r.note(one(-1))
		if len(r.until) != 1 || r.has(one(0)) || !r.has(one(-1)) {
			t.Errorf("%d are remembered after a while", len(r.until))
		}
	})
}
