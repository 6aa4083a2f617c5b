package gossip

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// packetLimit is the size of a message that always fits into a packet: packetBytes
// less memberlist's compound header (2), its seal (at most 45) and its part per
// message (3), and a rest for its own news.
const packetLimit = 1300

// directLimit is how many records at once are sent to each member in datagrams. More at
// once is an agent's start, and gossip and exchanges carry them.
const directLimit = 256

// Send takes records of this node's own making to everybody, soon. It never blocks, and
// of a record that waits only the newest version is sent. After Close it does nothing.
func (g *Gossip) Send(records ...mesh.Record) { g.small.put(records...) }

// outbox holds the newest version of what waits to be sent. Safe for concurrent use.
type outbox struct {
	mu      sync.Mutex
	waiting map[mesh.Key]mesh.Record
	news    chan struct{}
}

func newOutbox() *outbox {
	return &outbox{waiting: map[mesh.Key]mesh.Record{}, news: make(chan struct{}, 1)}
}

func (o *outbox) put(records ...mesh.Record) {
	o.mu.Lock()
	for _, r := range records {
		if have, ok := o.waiting[r.Key()]; !ok || have.Version.Compare(r.Version) < 0 {
			o.waiting[r.Key()] = r
		}
	}
	o.mu.Unlock()
	signal(o.news)
}

// take empties the box, oldest version first: a service arrives before its endpoints.
func (o *outbox) take() []mesh.Record {
	o.mu.Lock()
	waiting := o.waiting
	o.waiting = map[mesh.Key]mesh.Record{}
	o.mu.Unlock()
	return slices.SortedFunc(maps.Values(waiting), func(a, b mesh.Record) int {
		return cmp.Or(a.Version.Compare(b.Version), cmp.Compare(a.ID, b.ID))
	})
}

func (g *Gossip) sendSmall() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.small.news:
			g.flushSmall()
		}
	}
}

// flushSmall sends one datagram, or a few, to each member and queues each record
// for gossip. What fits into no packet goes to the other box.
func (g *Gossip) flushSmall() {
	records := g.small.take()
	lines := make([][]byte, 0, len(records))
	for _, r := range records {
		line, err := Encode(r)
		if err != nil {
			g.book.Error("record not sent", "err", err)
			continue
		}
		msg := message(line)
		if len(msg) > packetLimit {
			g.large.put(r)
			continue
		}
		lines = append(lines, line)
		g.queue.put(r, msg)
	}
	if len(lines) > directLimit {
		g.moved(len(lines))
		return
	}
	others := g.members.others()
	for _, msg := range pack(lines, packetLimit) {
		for _, n := range others {
			if err := g.list.SendBestEffort(n, msg); err != nil {
				g.book.Debug("datagram not sent", "node", n.Name, "err", err)
			}
		}
	}
}

// pack joins lines to messages of at most limit bytes. A line that is longer
// gets a message of its own.
func pack(lines [][]byte, limit int) [][]byte {
	var messages [][]byte
	first, size := 0, 1
	for i, line := range lines {
		if size+len(line)+1 > limit && i > first {
			messages = append(messages, message(lines[first:i]...))
			first, size = i, 1
		}
		size += len(line) + 1
	}
	if first < len(lines) {
		messages = append(messages, message(lines[first:]...))
	}
	return messages
}

func (g *Gossip) sendLarge() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.large.news:
			g.flushLarge()
		}
	}
}

// flushLarge sends to one member after the other by stream. One that does not answer
// holds it up for streamTimeout, until it counts as dead.
func (g *Gossip) flushLarge() {
	records := g.large.take()
	lines := make([][]byte, 0, len(records))
	for _, r := range records {
		if line, err := Encode(r); err == nil { // it was encoded before
			lines = append(lines, line)
		}
	}
	for _, msg := range pack(lines, noticeLimit) {
		for _, n := range g.members.others() {
			if err := g.list.SendReliable(n, msg); err != nil {
				g.book.Warn("large record not sent, the next exchange carries it", "node", n.Name, "err", err)
			}
		}
	}
}

func (g *Gossip) tellMembers() {
	period := time.NewTicker(logPeriod)
	defer period.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.members.news:
			g.members.tell(g.state)
		case <-period.C:
			g.book.turn()
		}
	}
}
