package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Join exchanges members and records with each seed and returns how many were reached; this
// node itself does not count. It fails where none was: with Unreachable or WrongSecret
// and what to do, or with ctx's error. Records of the seed are in State when it returns.
func (g *Gossip) Join(ctx context.Context, seeds ...netip.AddrPort) (int, error) {
	reached := 0
	var first error
	for _, seed := range seeds {
		if seed == g.self {
			continue
		}
		err := g.do(ctx, func() error { return g.join(seed) })
		if err == nil {
			reached++
			continue
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil || mesh.ReasonOf(err) == Closed {
			break
		}
	}
	if reached > 0 {
		return reached, nil
	}
	return 0, first
}

func (g *Gossip) join(seed netip.AddrPort) error {
	_, err := g.list.Join([]string{seed.String()})
	if err == nil {
		return g.meet(seed)
	}
	if one := errors.Unwrap(err); one != nil {
		err = one // memberlist wraps even one error in a list of several lines
	}
	// memberlist flattens its errors to text; a test holds this one.
	if strings.Contains(err.Error(), "no installed keys could decrypt") {
		if g.keysByRecords(seed) {
			return nil
		}
		return mesh.Refuse(WrongSecret, "take the token from 'sluice init' on a node of that cluster", "the node at %s has another secret", seed)
	}
	return mesh.Refuse(Unreachable, "check the address and port, that 'sluice agent' runs there, and that TCP and UDP pass the firewalls",
		"no node answers at %s: %v", seed, err)
}

// keysPause is how long State may take to set the keys that a record tells.
const keysPause = 100 * time.Millisecond

// keysByRecords meets a node that has other keys of gossip: they may have been changed while this
// node was away, and records, which tell, are exchanged without them. It tells whether that was it.
func (g *Gossip) keysByRecords(seed netip.AddrPort) bool {
	if g.meet(seed) != nil || !sleep(g.ctx, keysPause) {
		return false
	}
	_, err := g.list.Join([]string{seed.String()})
	return err == nil
}

// A seed that many join at one time is busy.
const (
	meetTries = 20
	meetPause = 150 * time.Millisecond // mean
)

// meet exchanges records with a node that has let this one in.
func (g *Gossip) meet(seed netip.AddrPort) error {
	for try := 1; ; try++ {
		err := g.exchange(g.ctx, seed)
		if err == nil {
			return nil
		}
		if mesh.ReasonOf(err) != Busy || try == meetTries || !sleep(g.ctx, jitter(meetPause)) {
			return mesh.Refuse(Unreachable, "look at the log of the node there, and try again or by another node",
				"the node at %s lets this one in and exchanges no records: %v", seed, err)
		}
	}
}

// rejoinPeriod is the mean time between two tries to reach a node that should
// be a member: memberlist forgets the dead and never ends a long split by itself.
const rejoinPeriod = 2 * time.Second

func (g *Gossip) rejoin() {
	for {
		if !sleep(g.leaving, jitter(rejoinPeriod)) {
			return
		}
		missing := slices.DeleteFunc(g.members.missing(g.state.Peers()), func(a netip.AddrPort) bool { return a == g.self })
		if len(missing) == 0 {
			continue
		}
		peer := missing[rand.IntN(len(missing))]
		if err := g.join(peer); err != nil && mesh.ReasonOf(err) == WrongSecret {
			g.book.Warn("peer not rejoined", "peer", peer, "err", err)
		}
	}
}
