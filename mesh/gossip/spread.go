package gossip

import "math/rand/v2"

// fanout is how many members a round of gossip is for.
const fanout = 3

// spread gossips what the queue holds, as memberlist would, but to nodes of sluice alone.
// Where the queue is empty it costs nothing.
func (g *Gossip) spread() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.queue.news:
		}
		for g.round() {
			if !sleep(g.ctx, gossipPeriod) {
				return
			}
		}
	}
}

// round sends one packet to some members and tells whether there was something to send.
func (g *Gossip) round() bool {
	others := g.members.others()
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	for _, n := range others[:min(fanout, len(others))] {
		msgs := g.queue.get(0, packetLimit)
		if len(msgs) == 0 {
			return false
		}
		if err := g.list.SendBestEffort(n, joined(msgs)); err != nil {
			g.book.Debug("datagram not sent", "node", n.Name, "err", err)
		}
	}
	return len(others) > 0
}

// joined makes one message of several.
func joined(msgs [][]byte) []byte {
	all := []byte{wireVersion}
	for _, msg := range msgs {
		all = append(all, msg[1:]...)
	}
	return all
}
