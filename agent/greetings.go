package agent

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A handshake costs this node a third of a millisecond of a processor, and who asks for it next to
// nothing. So they are counted; with these limits those of strangers take a twentieth of one
// processor. Who says nothing is not counted: see strangersMost.
const (
	greetingsAll    = 160 // of strangers in a second
	greetingsSource = 16  // of them of one origin: others live behind it, too
	greetingsKnown  = 160 // of one origin of which a member is connected, beside the others
	greetingsTries  = 4   // seconds that somebody waits for a turn: less than greetingLimit
	greetingsSpread = 100 * time.Millisecond
)

// greetings counts handshakes by the second. Safe for concurrent use.
type greetings struct {
	mu   sync.Mutex
	ends time.Time // of the second
	all  int
	by   map[netip.Prefix]int // no more than were let through in it
}

// stranger counts a stranger's handshake, or tells how long it is until the next second.
func (g *greetings) stranger(from netip.Prefix, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beginLocked(now)
	if g.by[from] >= greetingsSource || g.all >= greetingsAll {
		return g.ends.Sub(now)
	}
	g.by[from]++
	g.all++
	return 0
}

// neighbour is stranger for an origin from which a member is connected.
func (g *greetings) neighbour(from netip.Prefix, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beginLocked(now)
	if g.by[from] >= greetingsKnown {
		return g.ends.Sub(now)
	}
	g.by[from]++
	return 0
}

// beginLocked begins another second where it is time.
func (g *greetings) beginLocked(now time.Time) {
	if !now.Before(g.ends) {
		g.ends, g.all, g.by = now.Add(time.Second), 0, map[netip.Prefix]int{}
	}
}

// greeting is cfg, by which a visitor takes a turn once it has said what it speaks: nothing dear has
// been done for it by then.
func (d *doorkeeper) greeting(v *visitor, cfg *tls.Config) *tls.Config {
	choose := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		chosen, err := choose(hello)
		if err != nil {
			return nil, err
		}
		return chosen, d.turn(hello.Context(), v)
	}
	return cfg
}

// turn waits until a visitor may be greeted, and refuses where that takes too long.
func (d *doorkeeper) turn(ctx context.Context, v *visitor) error {
	take := d.greetings.stranger
	if d.knows(v.from) {
		take = d.greetings.neighbour
	}
	for range greetingsTries {
		wait := take(v.from, time.Now())
		if wait == 0 {
			return nil
		}
		if !sleep(ctx, wait+rand.N(greetingsSpread)) { // those who wait do not come in the order of before
			return ctx.Err()
		}
	}
	return mesh.Refuse(TooManyCalls, "try again", "too many ask who this node is")
}

// knows tells whether a member is connected from an origin.
func (d *doorkeeper) knows(from netip.Prefix) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.members {
		if v.from == from {
			return true
		}
	}
	return false
}
