package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

// counting counts the signatures that are looked at, and lets nobody in while shut is set.
type counting struct {
	verifier
	looked *int
	shut   *bool
}

func (c counting) Verify(writer mesh.NodeID, body, sig []byte) error {
	*c.looked++
	return c.verifier.Verify(writer, body, sig)
}

func (c counting) Admit(mesh.Record) error {
	if *c.shut {
		return errors.New("not known yet")
	}
	return nil
}

func TestEchoesAreNotReadAgain(t *testing.T) {
	looked, shut := 0, true
	m := newMemory()
	d := newDelegate(Config{ID: nodeID(1), State: m, Verifier: counting{looked: &looked, shut: &shut}}, newQueue(func() int { return 1 }), newLogbook(slog.New(slog.DiscardHandler)))
	lines := make([][]byte, 3)
	for i := range lines {
		r := service(i)
		r.Version, r.Claim = mesh.Version{Time: uint64(i + 1), Writer: nodeID(2)}, 1
		lines[i] = lineOf(t, sealed(t, r, mesh.Record{}, seals{nodeID(2)}))
	}
	for _, step := range []struct {
		what           string
		shut           bool
		msg            []byte
		looked, merges int
	}{
		{"a writer who is not known", true, message(lines[0]), 1, 0},
		{"the same, known by now", false, message(lines[0]), 2, 1},
		{"an echo", false, message(lines[0]), 2, 1},
		{"an echo beside something new", false, message(lines[0], lines[1]), 3, 2},
		{"something broken beside something new", false, message([]byte("{}"), lines[2]), 4, 3},
		{"the good one is an echo", false, message(lines[2]), 4, 3},
		{"the broken one is read again", false, message([]byte("{}")), 4, 3},
		{"only echoes", false, message(lines...), 4, 3},
	} {
		shut = step.shut
		d.merge(step.msg)
		if looked != step.looked || m.merges != step.merges {
			t.Errorf("%s: %d signatures were looked at and %d messages merged, not %d and %d", step.what, looked, m.merges, step.looked, step.merges)
		}
	}
	if d.take(message(lines...)); looked != 7 {
		t.Error("an exchange passes by records that were heard")
	}
}

// What State left out, as its clock is behind, is read when it comes again, and what it has in a
// newer version is not.
func TestWhatStateLeftOutIsReadAgain(t *testing.T) {
	looked, shut := 0, false
	m := newMemory()
	d := newDelegate(Config{ID: nodeID(1), State: m, Verifier: counting{looked: &looked, shut: &shut}}, newQueue(func() int { return 1 }), newLogbook(slog.New(slog.DiscardHandler)))
	at := func(i int, time uint64) []byte {
		r := service(i)
		r.Version, r.Claim = mesh.Version{Time: time, Writer: nodeID(2)}, 1
		return lineOf(t, sealed(t, r, mesh.Record{}, seals{nodeID(2)}))
	}
	clock := uint64(5)
	m.refuse = func(r mesh.Record) bool { return r.Version.Time > clock }
	both := message(at(1, 9), at(2, 4))
	d.merge(both)
	d.merge(both)
	if looked != 3 || m.Count() != 1 {
		t.Errorf("%d signatures were looked at, %d records are here", looked, m.Count())
	}
	clock = 10
	d.merge(both)
	if _, ok := m.get(service(1).Key()); !ok {
		t.Error("the record is refused still, after the clock was set")
	}
	older := message(at(1, 8))
	d.merge(older)
	looked = 0
	if d.merge(older); looked != 0 {
		t.Error("an older version is read again")
	}
}

// However many lines come, the newest are remembered, and no more than twice the limit.
func TestHeardIsBounded(t *testing.T) {
	h := newHeard()
	for i := range 5 * heardLimit {
		r := mesh.Record{Body: fmt.Append(nil, i)}
		msg := message(r.Body)
		if len(h.news(msg)) == 1 {
			t.Fatalf("line %d was not heard before", i)
		}
		h.note([]mesh.Record{r})
		if len(h.news(msg)) != 1 {
			t.Fatalf("line %d was heard", i)
		}
	}
	if have := len(h.now) + len(h.old); have < heardLimit || have > 2*heardLimit {
		t.Errorf("%d lines are remembered", have)
	}
}
