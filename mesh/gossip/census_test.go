package gossip

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// FuzzCensus: whatever comes is taken apart or refused.
func FuzzCensus(f *testing.F) {
	f.Add([]byte("\x030123456789abcdefa000000000000001"))
	f.Add([]byte("\x040123456789abcdefa000000000000001" + strings.Repeat("0a", mesh.SumSize)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		number, id, rest, ok := splitCensus(msg)
		if ok && (len(number) != censusNumber || id.Validate() != nil || len(rest) > 2*mesh.SumSize) {
			t.Fatalf("taken apart: %q %q %q", number, id, rest)
		}
	})
}

// An answer that nobody waits for, or one too many, is dropped.
func TestCensusCountsOnce(t *testing.T) {
	var c census
	c.counted("none", vote{})
	votes := make(chan vote, 1)
	c.begin("one", votes)
	c.counted("one", vote{node: "a"})
	c.counted("one", vote{node: "b"})
	if got := <-votes; got.node != "a" {
		t.Errorf("counted %v", got)
	}
	c.end("one")
	c.counted("one", vote{node: "c"})
	if len(votes) > 0 {
		t.Error("counted after the end")
	}
}

// All members answer with what they hold; one that is gone is missing when the time is over.
func TestCensus(t *testing.T) {
	nodes := cluster(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	votes := nodes[0].Census(ctx)
	if len(votes) != 2 {
		t.Fatalf("%d answered", len(votes))
	}
	for id, root := range votes {
		if want := nodes[0].Root(); root != want {
			t.Errorf("%s said %x, want %x", id, root, want)
		}
	}
}
