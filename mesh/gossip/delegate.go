package gossip

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// delegate is memberlist.Delegate: records in. What goes out is sent by send.go and spread.go.
type delegate struct {
	self     mesh.NodeID
	state    State
	verifier Verifier // nil: signatures are not looked at
	queue    *queue
	book     *logbook
	inbox    chan []byte // messages that came by packet or stream
	stay     atomic.Pointer[stay]
	renewed  chan struct{} // holds one token while others are to be told another stay

	// Of the goroutine that takes messages in.
	heard   *heard
	words   words
	renewAt time.Time // not before

	gate   sync.RWMutex // held for reading while State is called
	closed bool
}

// inboxSize bounds what waits for State; what is lost here comes again with the next
// exchange.
const inboxSize = 256

// relayLimit is how many new records of one message are gossiped on. More at once
// is a node that catches up on what everybody else has.
const relayLimit = 64

func newDelegate(cfg Config, q *queue, book *logbook) *delegate {
	d := &delegate{
		self: cfg.ID, state: cfg.State, verifier: cfg.Verifier, queue: q, book: book, inbox: make(chan []byte, inboxSize),
		renewed: make(chan struct{}, 1), heard: newHeard(), words: words{},
	}
	own := newStay()
	d.stay.Store(&own)
	return d
}

// NodeMeta tells the others that this is a node of sluice, and since when it is here.
func (d *delegate) NodeMeta(int) []byte { return d.stay.Load().meta() }

// NotifyMsg must not block, and msg is memberlist's own buffer.
func (d *delegate) NotifyMsg(msg []byte) {
	if foreignMessage(msg) {
		return
	}
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

// foreignMessage tells whether a message is another program's that gossips with the same
// key: serf's have a number and msgpack, and ours text after the number.
func foreignMessage(msg []byte) bool {
	return len(msg) > 1 && msg[0] >= wireVersion && msg[0] <= censusAnswer && msg[1] >= 0x80
}

// GetBroadcasts gives memberlist nothing: it would tell members that are no nodes. See spread.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is empty: memberlist exchanges members, and records go another way.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState has no use for what another program says there.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// merge takes a message that came by datagram or from its writer, and passes on what was new.
func (d *delegate) merge(msg []byte) {
	if msg = d.heard.news(msg); len(msg) == 1 && msg[0] == wireVersion {
		return
	}
	records, _ := d.absorb(msg, d.admit, d.relay)
	d.heard.note(d.settled(records))
}

// take is merge for an exchange: what is new here then is not news to others, and
// everybody will compare. What State answers in this node's own name is.
func (d *delegate) take(msg []byte) int {
	_, fresh := d.absorb(msg, func(mesh.Record) error { return nil }, func(fresh []mesh.Record) {
		d.relay(slices.DeleteFunc(slices.Clone(fresh), func(r mesh.Record) bool { return r.Version.Writer != d.self }))
	})
	return fresh
}

// settled are those of the records that State has, or newer ones, so that they need not come
// again. What it left out may be good in a moment: its clock may be wrong.
func (d *delegate) settled(records []mesh.Record) []mesh.Record {
	if len(records) == 0 {
		return nil
	}
	keys := make([]mesh.Key, len(records))
	for i, r := range records {
		keys[i] = r.Key()
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.closed {
		return nil
	}
	have := make(map[mesh.Key]mesh.Version, len(keys))
	for _, r := range d.state.Select(keys) {
		have[r.Key()] = r.Version
	}
	return slices.DeleteFunc(records, func(r mesh.Record) bool {
		version, known := have[r.Key()]
		return !known || version.Compare(r.Version) < 0
	})
}

// admit is for a record that came by packet.
func (d *delegate) admit(r mesh.Record) error {
	if d.verifier == nil {
		return nil
	}
	return d.verifier.Admit(r)
}

// absorb hands the records of a message to State and returns those that State got, and how many
// were new. A writer who is no member yet may be one in a moment.
func (d *delegate) absorb(msg []byte, admit func(mesh.Record) error, pass func(fresh []mesh.Record)) (got []mesh.Record, fresh int) {
	records, left, err := decode(msg, noticeLimit, d.verifier)
	if err != nil {
		d.book.Warn("gossip message refused", "err", err)
		return nil, 0
	}
	records = slices.DeleteFunc(records, func(r mesh.Record) bool {
		err := admit(r)
		if err != nil {
			left.add(err)
		}
		return err != nil
	})
	if left.count > 0 {
		d.book.Warn("gossip records refused", "count", left.count, "first", left.first)
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.closed || len(records) == 0 {
		return nil, 0
	}
	taken := d.state.Merge(records)
	pass(taken)
	return records, len(taken)
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
			switch {
			case len(msg) > 0 && msg[0] == overVersion:
				g.in.over(msg)
			case len(msg) > 0 && (msg[0] == censusAsk || msg[0] == censusAnswer):
				g.hearCensus(msg)
			default:
				g.in.merge(msg)
			}
		}
	}
}
