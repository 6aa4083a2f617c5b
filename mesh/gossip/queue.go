package gossip

import (
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// queue holds what is to be gossiped, one message a record key, so that it never
// grows beyond the state. memberlist's queue replaces by name without looking
// at versions; records come from several goroutines, so versions are kept here.
// Safe for concurrent use.
type queue struct {
	mu       sync.Mutex
	versions map[mesh.Key]mesh.Version
	sends    memberlist.TransmitLimitedQueue
	news     chan struct{} // holds one token while a message was put
}

func newQueue(members func() int) *queue {
	q := &queue{
		versions: map[mesh.Key]mesh.Version{},
		sends:    memberlist.TransmitLimitedQueue{NumNodes: members, RetransmitMult: retransmitMult},
		news:     make(chan struct{}, 1),
	}
	q.sends.QueueBroadcast(ballast{})
	return q
}

// ballast fits into no packet and stays for ever. A memberlist queue (v0.7.0) that
// runs empty while it replaces a message gives numbers out twice, and then one
// message pushes another out.
type ballast struct{}

func (ballast) Invalidates(memberlist.Broadcast) bool { return false }
func (ballast) Message() []byte                       { return make([]byte, 1<<16) }
func (ballast) Finished()                             {}
func (ballast) UniqueBroadcast()                      {}

// put queues a message about one record unless a newer one of it is there.
func (q *queue) put(r mesh.Record, msg []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := r.Key()
	if have, ok := q.versions[k]; ok && have.Compare(r.Version) >= 0 {
		return
	}
	q.sends.QueueBroadcast(&broadcast{queue: q, key: k, version: r.Version, msg: msg})
	q.versions[k] = r.Version
	signal(q.news)
}

// get returns messages whose sizes, each with overhead, do not exceed limit.
func (q *queue) get(overhead, limit int) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sends.GetBroadcasts(overhead, limit)
}

// broadcast is a memberlist.NamedBroadcast.
type broadcast struct {
	queue   *queue
	key     mesh.Key
	version mesh.Version
	msg     []byte
}

func (b *broadcast) Name() string    { return string(b.key.Kind) + "/" + b.key.ID }
func (b *broadcast) Message() []byte { return b.msg }

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.key == b.key
}

// Finished is called while the queue is locked: by put for what it replaces, by
// get for what was sent often enough.
func (b *broadcast) Finished() { delete(b.queue.versions, b.key) }
