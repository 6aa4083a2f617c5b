package gossip

import (
	"log/slog"
	"testing"

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
	want(1, 5)
	for i := 2; i < manyMembers; i++ {
		g.members.NotifyJoin(node(i))
	}
	want(manyMembers-1, 5)
	g.members.NotifyJoin(node(manyMembers))
	want(manyMembers, 3)
	g.members.NotifyLeave(node(5))
	want(manyMembers-1, 5)
}

// A profile that names no other suspicion for many members has one for all.
func TestSuspicionOfOneSize(t *testing.T) {
	if lan := LAN(); lan.suspicion(2) != lan.Suspicion || lan.suspicion(1000) != lan.Suspicion {
		t.Error("LAN's suspicion depends on the members")
	}
}
