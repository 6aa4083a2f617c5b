package agent

import (
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A clock may be ahead for a moment, until NTP has set it. What this node writes then nobody else
// takes; with a key of gossip it would be alone. So such a key is not made, and once the clock is
// right, what was written counts from then.

const (
	peersWindow = 10 * time.Minute // for so long a peer's time is gone on from
	healPeriod  = 5 * time.Second  // between two looks at all records, where some are of the future
)

// peersTime is the latest time by a peer's clock, and when it said so, by the host's monotonic one.
type peersTime struct {
	told uint64
	at   time.Time
}

// by is the peer's time now; false where it was told too long ago.
func (p peersTime) by(now time.Time) (uint64, bool) {
	past := now.Sub(p.at)
	return p.told + uint64(max(past, 0)/time.Microsecond), p.told > 0 && past < peersWindow
}

// noteTime notes a peer's time. The lock is held.
func (c *cluster) noteTime(told uint64) {
	now := time.Now()
	if have, known := c.peersTime.by(now); !known || told >= have {
		c.peersTime = peersTime{told, now}
	}
}

// isBelieved tells whether the others take what this node writes now, as far as it was in touch
// with them; where there are none, it is. The lock is held.
func (c *cluster) isBelieved(snap *mesh.Snapshot) bool {
	if len(snap.Nodes) <= 1 {
		return true
	}
	theirs, known := c.peersTime.by(time.Now())
	return known && mesh.Micros(c.now()) <= mesh.LatestBelieved(time.UnixMicro(int64(theirs)))
}

// heal makes what this node wrote in the far future count from now. Where there is something of
// others from there too it does nothing: then it may be this clock that is behind.
func (c *cluster) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := mesh.LatestBelieved(c.now())
	if c.phase != inside || c.state.SeenBy(limit) <= limit || time.Since(c.healed) < healPeriod {
		return
	}
	c.healed = time.Now()
	records := c.state.Records()
	for _, r := range records {
		if r.Version.Writer != c.own.ID && r.WrittenBy(limit) != nil {
			return
		}
	}
	c.state.Clear()
	c.take(records)
	c.snap = nil
	c.wake()
}
