package gossip

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// A greeting by which a stream is protected costs this node a third of a millisecond of a CPU,
// and who begins it nothing. So those of strangers are counted: with these limits they take a
// twentieth of one CPU. Peers' addresses are not, and sourceLimit bounds what one of them can do.
const (
	greetingsLimit  = 160 // of strangers in a second
	greetingsSource = 16  // of one address: others live behind it, too
	greetingsFew    = 2   // of one address: who joins needs no more
	greetingsShare  = 40  // of the limit, kept for the first few of each address: ten addresses take all else
	greetingsTries  = 4   // seconds that a stranger waits for his turn
)

// greetings counts by the second. Safe for concurrent use.
type greetings struct {
	mu   sync.Mutex
	ends time.Time    // of the second
	seed maphash.Seed // of the second: nobody chooses whose count he shares, or shares it for long
	all  int
	by   [1024]uint16 // sources share one where their hashes meet
}

func newGreetings() *greetings { return &greetings{} }

// take counts a greeting, or tells how long it is until the next second.
func (g *greetings) take(from netip.Addr, now time.Time) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !now.Before(g.ends) {
		g.ends, g.seed, g.all, g.by = now.Add(time.Second), maphash.MakeSeed(), 0, [len(g.by)]uint16{}
	}
	mine := &g.by[maphash.Comparable(g.seed, from)%uint64(len(g.by))]
	limit := greetingsLimit
	if *mine >= greetingsFew {
		limit -= greetingsShare
	}
	if g.all >= limit || *mine >= greetingsSource {
		return g.ends.Sub(now)
	}
	g.all, *mine = g.all+1, *mine+1
	return 0
}
