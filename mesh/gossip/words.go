package gossip

import (
	"sync"

	"github.com/sluice-mesh/sluice/mesh"
)

// numbers are those of what this node says, for each node that it is said to: with one count
// for all, what one of them hears next could be out of its window. Safe for concurrent use.
type numbers struct {
	mu   sync.Mutex
	most uint64 // given to any node; greater than those of before the start
	last map[mesh.NodeID]uint64
}

func newNumbers(above uint64) *numbers {
	return &numbers{most: above, last: map[mesh.NodeID]uint64{}}
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

// words are the numbers of what nodes have said. Not safe for concurrent use.
type words map[mesh.NodeID]window

// wordsLimit bounds the nodes that are listened to. They are members by their certificates.
const wordsLimit = 4096

// take tells whether a node's number was not taken before.
func (w words) take(node mesh.NodeID, number uint64) bool {
	said, known := w[node]
	if !known && len(w) >= wordsLimit {
		return false
	}
	fresh := said.take(number)
	w[node] = said
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
