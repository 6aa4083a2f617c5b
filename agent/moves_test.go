package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

const movedClient = "192.0.2.7:4000"

func (m *fakeMachine) losesAddress(flows ...kernel.Sender) {
	m.mu.Lock()
	m.dialled = flows
	m.mu.Unlock()
	m.lost <- struct{}{}
}

func (m *fakeMachine) forgot(zone string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.forgotten, func(line string) bool {
		return strings.HasPrefix(line, "sluice-1048576 "+zone) && strings.Contains(line, movedClient)
	})
}

// A node that loses an address says so, and it and the nodes with endpoints forget the
// flows in its zone.
func TestFlowsOfLostAddress(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	agents[0].create("web", "8080:80/udp")
	agents[1].attach("web")
	eventually(t, "all know the endpoint and their slots", func() bool {
		for _, a := range agents {
			if !strings.Contains(a.machine.plan().Text(), "backend") && !strings.Contains(a.machine.plan().Text(), "slots4") {
				return false
			}
		}
		return true
	})
	one := kernel.Sender{Proto: "udp", Client: netip.MustParseAddrPort(movedClient)}
	agents[0].machine.losesAddress(one)
	eventually(t, "both have forgotten", func() bool {
		return agents[0].machine.forgot("zone ") && agents[1].machine.forgot("zone ")
	})
	if agents[2].machine.forgot("zone ") {
		t.Error("a node without an endpoint was told")
	}
}

// A word about a zone comes from the node whose slot it is, or nobody.
func TestOverOfUnknownNode(t *testing.T) {
	c, _ := member(t, settled(t), &clock{at: time.Unix(1000, 0)})
	machine := newFakeMachine(t, "192.0.2.11")
	m := newMoves(c, machine, c.log)
	client := []mesh.Sender{{Proto: mesh.TCP, Client: netip.MustParseAddrPort(movedClient)}}
	m.forget(mesh.Over{Node: testID[mesh.NodeID]('f', 9), Senders: client})
	if len(machine.forgotten) > 0 {
		t.Errorf("forgotten: %v", machine.forgotten)
	}
	for range 2 * oversWaiting { // nobody takes them: the caller must not wait
		c.FlowsOver(mesh.Over{Node: scene.NodeID(2), Senders: client})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.run(ctx) }()
	zone := fmt.Sprintf("zone %d", c.snapshot().Node(scene.NodeID(2)).Slot)
	eventually(t, "they are acted on", func() bool { return machine.forgot(zone) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func settled(t *testing.T) *scene.World {
	t.Helper()
	w := scene.New(t, 2)
	w.Settle()
	return w
}
