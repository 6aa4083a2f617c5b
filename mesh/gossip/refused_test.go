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
			remembered := newRefused(nil)
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
			time.Sleep(refusedFirst)
			meet("later", 3)
			time.Sleep(refusedFirst)
			meet("a moment later, as it was refused twice", 3)
			time.Sleep(refusedFirst)
			meet("twice as much later", 4)
			has.Merge([]mesh.Record{serviceAt(t, 1, 9)})
			meet("as it is to be", 5)
			if picky.Root() != has.Root() {
				t.Errorf("%s refuses nothing any more, and they differ", name)
			}
		})
	}
}

// However many records are refused, a bounded number of them is remembered, and who goes makes room.
func TestRefusedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRefused(nil)
		one := func(i int) refusal { return refusal{nodeID(1), service(i).Key(), short{}} }
		for i := range 2 * refusedLimit {
			r.note(one(i))
		}
		if len(r.waits) != refusedLimit || !r.has(one(0)) || r.has(one(refusedLimit)) {
			t.Errorf("%d are remembered", len(r.waits))
		}
		time.Sleep(refusedFirst + time.Second)
		r.note(one(-1))
		if len(r.waits) != 1 || r.has(one(0)) || !r.has(one(-1)) {
			t.Errorf("%d are remembered after a while", len(r.waits))
		}
	})
}

// Who refuses for longer is asked more seldom, once a minute at last, and what is not refused any
// more is soon forgotten.
func TestRefusedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, one := newRefused(nil), refusal{nodeID(1), service(1).Key(), short{}}
		for _, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
			r.note(one)
			time.Sleep(want*time.Second - time.Nanosecond)
			if !r.has(one) {
				t.Errorf("it is tried again before %d s", want)
			}
			if time.Sleep(time.Nanosecond); r.has(one) {
				t.Errorf("it is not tried again after %d s", want)
			}
		}
		if r.any(nodeID(2)) || !r.any(nodeID(1)) {
			t.Error("another node has refused it")
		}
		r.taken(one)
		r.note(one)
		if time.Sleep(refusedFirst); r.has(one) {
			t.Error("once it was taken it does not begin anew")
		}
		if time.Sleep(refusedMost + 1); r.any(nodeID(1)) || len(r.waits) > 0 {
			t.Errorf("%d are remembered", len(r.waits))
		}
	})
}

// A node that refuses the records of others as its clock was behind takes them once it is set.
func TestRefusedUntilTheClockIsSet(t *testing.T) {
	for name, step := range map[string]time.Duration{"forward": 24 * time.Hour, "back": -24 * time.Hour, "slowly": refusedStep / 2} {
		synctest.Test(t, func(t *testing.T) {
			var off time.Duration
			r, one := newRefused(func() time.Time { return time.Now().Add(off) }), refusal{nodeID(1), service(1).Key(), short{}}
			for range 10 {
				r.note(one)
			}
			time.Sleep(5 * time.Second)
			off += step
			if got, want := r.has(one), step.Abs() < refusedStep; got != want {
				t.Errorf("set %s: left out: %v", name, got)
			}
			for range 10 {
				r.note(one)
			}
			if time.Sleep(5 * time.Second); !r.has(one) {
				t.Errorf("set %s: the clock goes on, and it is tried again", name)
			}
		})
	}
}
