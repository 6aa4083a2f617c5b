package gossip

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// How long a node is suspected follows the members that come and go, foreign ones too.
func TestSuspicionFollowsMembers(t *testing.T) {
	g := &Gossip{members: newMembers(nodeID(1)), book: newLogbook(slog.New(slog.DiscardHandler))}
	c := g.settings(Config{ID: nodeID(1), Bind: memAddr(1)}, nil)
	node := func(i int) *memberlist.Node {
		n := &memberlist.Node{Name: string(nodeID(i)), Addr: []byte{192, 0, 2, 1}}
		if i > 9 {
			n.Meta = []byte(memberMark)
		}
		return n
	}
	want := func(members, suspicion int) {
		t.Helper()
		if c.SuspicionMult != suspicion {
			t.Errorf("%d members: suspicion %d, not %d", members, c.SuspicionMult, suspicion)
		}
	}
	want(1, 6)
	for i := 2; i <= 68; i++ {
		g.members.NotifyJoin(node(i))
	}
	want(68, 4)
	g.members.NotifyJoin(node(69))
	want(69, 3)
	g.members.NotifyLeave(node(5))
	want(68, 4)
}

// Fast is patient for more than a second with any number of members, and no more so than it has to be where
// it finds the dead soon enough.
func TestPatience(t *testing.T) {
	for n := 1; n <= memberLimit; n++ {
		d := Fast()
		lasts := time.Duration(float64(d.suspicion(n)) * max(1, math.Log10(float64(n))) * float64(d.Period))
		most := max(3*time.Second/2, time.Duration(math.Log10(float64(n))*3*float64(d.Period)))
		if lasts < d.Patience || lasts > most {
			t.Errorf("%d members: suspected for %v", n, lasts)
		}
	}
	if lan := LAN(); lan.suspicion(2) != lan.Suspicion || lan.suspicion(1000) != lan.Suspicion {
		t.Error("LAN's suspicion depends on the members")
	}
}
