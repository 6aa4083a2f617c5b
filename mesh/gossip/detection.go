package gossip

import (
	"math"
	"time"

	"github.com/hashicorp/memberlist"
)

// Detection is how soon a node that does not answer counts as dead. What is sooner is wrong
// more often; docs/SIMULATION.md has figures, and docs/decisions/0008-detection.md says why
// Fast is the usual one.
type Detection struct {
	Period    time.Duration // between two probes, each of another node
	Timeout   time.Duration // of a direct probe; Helpers others are asked afterwards, until Period ends
	Helpers   int
	Suspicion int           // a node that answers nobody is suspected for Suspicion·log10(members) periods or more; the logarithm counts as 1 where it is less
	Patience  time.Duration // and for at least so long, whatever the number of members
	Doubt     int           // where nobody else has found the same, for so many times that
	Gossip    time.Duration // between two rounds of news about members
	Repeats   int           // each node sends a piece of such news Repeats·⌈log10(members+1)⌉ times
}

// Fast finds a dead node in 1.3 to 2.5 seconds, or little more. Its patience is what a process may stand still
// for on a busy host, a second, and the time for its word to get around. It doubts little, since where many are
// dead at once nobody is left to find the same.
func Fast() Detection {
	return Detection{
		Period: time.Second / 5, Timeout: time.Second / 10, Helpers: 6, Suspicion: 3, Patience: 1100 * time.Millisecond, Doubt: 2,
		Gossip: gossipPeriod, Repeats: 8,
	}
}

// LAN is what memberlist proposes for one: a dead node is found in 5 to 13 seconds.
func LAN() Detection {
	return Detection{Period: time.Second, Timeout: time.Second / 2, Helpers: 3, Suspicion: 4, Doubt: 6, Gossip: time.Second / 5, Repeats: 4}
}

func (d Detection) set(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout, c.IndirectChecks = d.Period, d.Timeout, d.Helpers
	c.SuspicionMaxTimeoutMult = d.Doubt
	c.SuspicionMult, c.GossipInterval, c.RetransmitMult = d.suspicion(1), d.Gossip, d.Repeats
}

// suspicion is memberlist's factor for so many members.
func (d Detection) suspicion(members int) int {
	scale := max(1, math.Log10(float64(members)))
	return max(d.Suspicion, int(math.Ceil(float64(d.Patience)/float64(d.Period)/scale)))
}
