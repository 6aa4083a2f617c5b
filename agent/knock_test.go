package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
)

// fakeDoor is the gossip port of nodes.
type fakeDoor struct {
	mu      sync.Mutex
	mute    bool
	fault   error
	knocked int
	last    netip.AddrPort
}

func (d *fakeDoor) knock(ctx context.Context, to netip.AddrPort) (bool, error) {
	d.mu.Lock()
	mute, fault := d.mute, d.fault
	d.knocked++
	d.last = to
	d.mu.Unlock()
	if mute {
		<-ctx.Done()
		return false, nil
	}
	return fault == nil, fault
}

func (d *fakeDoor) set(mute bool, fault error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mute, d.fault = mute, fault
}

// A node without an endpoint is knocked at while gossip does not hear it: it is gone only
// where its kernel does not answer either.
func TestPulseKnocks(t *testing.T) {
	door := &fakeDoor{}
	last := scene.NodeID(3)
	followWith(t, 3, func(p *pulse) { p.knocks = newKnocks(door.knock) }, func(p *following) {
		seen := func(pause time.Duration, want presence) {
			t.Helper()
			time.Sleep(pause)
			if got := p.standing(last).presence; got != want || p.gone()[last] != (want == presenceGone) {
				t.Fatalf("n3 is seen as %s, gone %v, want %s", got, p.gone(), want)
			}
		}
		p.cluster.MemberAlive(last)
		time.Sleep(time.Second)
		before := door.knocked
		seen(time.Minute, presenceAlive)
		if door.knocked != before {
			t.Error("a node that is heard was knocked at")
		}
		p.cluster.MemberSilent(last)
		seen(time.Second, presenceAgentDown)
		if want := netip.MustParseAddrPort("192.0.2.13:7956"); door.last != want {
			t.Errorf("knocked at %s, want %s", door.last, want)
		}
		door.set(true, nil)
		seen(2*time.Second, presenceGone)
		door.set(false, nil)
		seen(2*time.Second, presenceAgentDown)
		p.cluster.MemberAlive(last)
		seen(100*time.Millisecond, presenceAlive)
		door.set(false, errors.New("no way there"))
		p.cluster.MemberSilent(last)
		seen(time.Minute, presenceSilent)
	})
}
