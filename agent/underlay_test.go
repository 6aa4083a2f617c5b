package agent

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// A node whose address changes, and then each of the others, stays the same node, and all
// see each other at the new addresses.
func TestNodesMove(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	ids := map[string]string{}
	for _, x := range agents {
		ids[x.cfg.Name] = x.status().GetNode().GetId()
	}
	for i, moving := range agents {
		to := nodeAddr(11 + i)
		moving.machine.move(to)
		eventually(t, moving.cfg.Name+" is seen at "+to, func() bool { return allSee(agents, ids, moving.cfg.Name, to) })
	}
	moved := agents[0]
	moved.stop()
	moved.start()
	eventually(t, "n1 is there again after a restart", func() bool { return allSee(agents, ids, "n1", nodeAddr(11)) })
}

// allSee tells whether all agents see each other alive, and the one named so at an address.
func allSee(agents []*testAgent, ids map[string]string, name, addr string) bool {
	for _, x := range agents {
		s := x.status()
		nodes := append(s.GetPeers(), s.GetNode())
		if len(nodes) != len(agents) {
			return false
		}
		for _, n := range nodes {
			at := n.GetName() != name || n.GetAddress() == addr
			if !at || n.GetState() != sluicev1.NodeState_NODE_STATE_ALIVE || ids[n.GetName()] != n.GetId() {
				return false
			}
		}
	}
	return true
}

// An address that the operator chose is kept, and so is one that is still the host's
// while the default route goes another way.
func TestNodeStays(t *testing.T) {
	for why, c := range map[string]struct {
		advertise string
		gone      string // of the host's addresses
		refused   bool
	}{
		"another default route":        {gone: "192.0.2.99"},
		"an address of the operator's": {advertise: nodeAddr(1), gone: nodeAddr(1), refused: true},
	} {
		t.Run(why, func(t *testing.T) {
			w := scene.New(t, 1)
			held, _ := member(t, w, &clock{at: today()})
			t.Cleanup(func() {
				if err := held.close(); err != nil {
					t.Error(err)
				}
			})
			m := newFakeMachine(t, nodeAddr(1))
			m.move(nodeAddr(11))
			m.gone = netip.MustParseAddr(c.gone)
			log := slog.New(slog.NewTextHandler(t.Output(), nil))
			u := &underlay{cluster: held, loop: newLoop(held, m, newStatus(time.Now, nil), log), log: log}
			if c.advertise != "" {
				u.advertise = netip.MustParseAddr(c.advertise)
			}
			was := held.self()
			if err := u.follow(t.Context()); (err != nil) != c.refused {
				t.Fatalf("refused: %v", err)
			}
			if is := held.self(); is.Addr != was.Addr {
				t.Errorf("moved from %s to %s", was.Addr, is.Addr)
			}
		})
	}
}
