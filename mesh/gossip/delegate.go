package gossip

import (
	"bytes"
	"math/rand/v2"
	"sync"

	"github.com/sluice-mesh/sluice/mesh"
)

// delegate is memberlist.Delegate: records in, and what memberlist carries out.
type delegate struct {
	state    State
	verifier Verifier // nil: signatures are not looked at
	queue    *queue
	book     *logbook
	inbox    chan []byte // messages that came by packet or stream

	gate   sync.RWMutex // held for reading while State is called
	closed bool
}

// inboxSize bounds what waits for State; what is lost here comes again with the next
// exchange.
const inboxSize = 256

// relayLimit is how many new records of one message are gossiped on. More at once
// is a node that catches up on what everybody else has.
const relayLimit = 64

func newDelegate(state State, v Verifier, q *queue, book *logbook) *delegate {
	return &delegate{state: state, verifier: v, queue: q, book: book, inbox: make(chan []byte, inboxSize)}
}

// NodeMeta is empty: what is to be known of a node is in its record.
func (d *delegate) NodeMeta(int) []byte { return nil }

// NotifyMsg must not block, and msg is memberlist's own buffer.
func (d *delegate) NotifyMsg(msg []byte) {
	if len(msg) > noticeLimit {
		d.book.Warn("gossip message refused", "bytes", len(msg), "limit", noticeLimit)
		return
	}
	select {
	case d.inbox <- bytes.Clone(msg):
	default:
		d.book.Warn("gossip message dropped, too many wait")
	}
}

// GetBroadcasts fills a packet.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte { return d.queue.get(overhead, limit) }

// LocalState is our half of a state exchange. Where the state is larger than a
// message may be, each exchange carries a part that begins at another record.
func (d *delegate) LocalState(bool) []byte {
	records := d.state.Records()
	if len(records) == 0 {
		return message()
	}
	start, size := rand.IntN(len(records)), 1
	lines := make([][]byte, 0, len(records))
	for i := range min(len(records), countLimit) {
		line, err := Encode(records[(start+i)%len(records)])
		if err != nil {
			d.book.Error("record not sent", "err", err)
			continue
		}
		if size += len(line) + 1; size > stateLimit {
			break
		}
		lines = append(lines, line)
	}
	return message(lines...)
}

// MergeRemoteState takes the other half. It runs in a goroutine of the exchange
// and may take its time.
func (d *delegate) MergeRemoteState(msg []byte, _ bool) { d.merge(msg, stateLimit) }

func (d *delegate) merge(msg []byte, limit int) {
	records, left, err := decode(msg, limit, d.verifier)
	if err != nil {
		d.book.Warn("gossip message refused", "err", err)
		return
	}
	if left.count > 0 {
		d.book.Warn("gossip records refused", "count", left.count, "first", left.first)
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.closed || len(records) == 0 {
		return
	}
	d.relay(d.state.Merge(records))
}

// relay gossips on what was new here: memberlist passes on no message by itself.
// Each version is new to a node once, so it is passed on once.
func (d *delegate) relay(fresh []mesh.Record) {
	if len(fresh) > relayLimit {
		return
	}
	for _, r := range fresh {
		line, err := Encode(r)
		if err != nil {
			d.book.Error("record not sent", "err", err)
			continue
		}
		// A large record came from its writer, who sends it to everybody.
		if msg := message(line); len(msg) <= packetLimit {
			d.queue.put(r, msg)
		}
	}
}

// close waits until State is not being called and sees to it that it is not again.
func (d *delegate) close() {
	d.gate.Lock()
	defer d.gate.Unlock()
	d.closed = true
}

func (g *Gossip) receive() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case msg := <-g.in.inbox:
			if len(msg) > 0 && msg[0] == overVersion {
				g.in.over(msg)
				continue
			}
			g.in.merge(msg, noticeLimit)
		}
	}
}
