package gossip

import (
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// numbers are those of what this node says, for each node that it is said to: with one count
// for all, what one of them hears next could be out of its window. Safe for concurrent use.
type numbers struct {
	own stay // of who says it

	mu   sync.Mutex
	most uint64 // given to any node; greater than those of before the start
	last map[mesh.NodeID]uint64
}

// newNumbers begins above a number, since nodes of the version before go on counting where this
// node was at its last start.
func newNumbers(above uint64) *numbers {
	return &numbers{own: newStay(), most: above, last: map[mesh.NodeID]uint64{}}
}

// next is the next number for a node.
func (n *numbers) next(to mesh.NodeID) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	last, known := n.last[to]
	if !known {
		if len(n.last) >= wordsLimit {
			clear(n.last)
		}
		last = n.most // above what it may have been told before it was forgotten
	}
	n.last[to] = last + 1
	n.most = max(n.most, last+1)
	return last + 1
}

// words are the numbers of what nodes have said, apart for each stay of theirs: a number is a
// time at first, and their clocks are set back. Not safe for concurrent use.
type words map[mesh.NodeID]map[stay]window

// Nothing of words is ever forgotten but all of it, with a stay of the node that heard them.
const (
	wordsLimit = 4096 // nodes that are listened to; they are members by their certificates
	staysLimit = 8    // of each
	renewPause = time.Minute
)

// room tells whether what a node says can be noted.
func (w words) room(node mesh.NodeID, own stay) bool {
	if said, known := w[node]; known {
		_, known = said[own]
		return known || len(said) < staysLimit
	}
	return len(w) < wordsLimit
}

// take tells whether a node's number was not taken before, if there is room for it.
func (w words) take(node mesh.NodeID, own stay, number uint64) bool {
	if !w.room(node, own) {
		return false
	}
	if w[node] == nil {
		w[node] = map[stay]window{}
	}
	said := w[node][own]
	fresh := said.take(number)
	w[node][own] = said
	return fresh
}

// window knows which of the last numbers were taken, since two words may overtake one another
// (RFC 4303, 3.4.3).
type window struct {
	most uint64
	seen uint64 // bit i: most-i was taken
}

const windowSize = 64

func (w *window) take(number uint64) bool {
	if number > w.most {
		w.seen, w.most = w.seen<<min(number-w.most, windowSize)|1, number
		return true
	}
	behind := w.most - number
	if behind >= windowSize || w.seen>>behind&1 != 0 {
		return false
	}
	w.seen |= 1 << behind
	return true
}
