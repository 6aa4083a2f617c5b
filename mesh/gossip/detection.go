package gossip

import (
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
	Suspicion int           // a node that answers nobody is suspected for at least Suspicion·log10(nodes) periods, one where nodes are ten or fewer
	OfMany    int           // the same where there are manyMembers or more; 0 is Suspicion
	Gossip    time.Duration // between two rounds of news about members
	Repeats   int           // each node sends a piece of such news Repeats·log10(nodes+1) times
}

// manyMembers is from where on three suspicions of Fast last for more than a second.
const manyMembers = 50

// Fast finds a dead node in 1 to 2.5 seconds. It suspects for a second or more, for so long a
// process may stand still on a busy host; with many members the logarithm alone sees to that.
func Fast() Detection {
	return Detection{Period: time.Second / 5, Timeout: time.Second / 10, Helpers: 6, Suspicion: 5, OfMany: 3, Gossip: gossipPeriod, Repeats: 8}
}

// LAN is what memberlist proposes for one: a dead node is found in 5 to 15 seconds.
func LAN() Detection {
	return Detection{Period: time.Second, Timeout: time.Second / 2, Helpers: 3, Suspicion: 4, Gossip: time.Second / 5, Repeats: 4}
}

// set gives memberlist the settings that do not depend on the number of members.
func (d Detection) set(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout, c.IndirectChecks = d.Period, d.Timeout, d.Helpers
	c.SuspicionMult, c.GossipInterval, c.RetransmitMult = d.Suspicion, d.Gossip, d.Repeats
}

// suspicion is the one for so many members.
func (d Detection) suspicion(members int) int {
	if members >= manyMembers && d.OfMany != 0 {
		return d.OfMany
	}
	return d.Suspicion
}
