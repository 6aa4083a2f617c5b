package gossip

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"

	"github.com/sluice-mesh/sluice/mesh"
)

// stay is a random name of the time from a Gossip's start to its end, told to all by
// memberlist. Who has the key of gossip can tell another one; then what is said to the node is
// not taken, and no more.
type stay string

const stayLength = 16 // hex characters

func newStay() stay {
	var raw [stayLength / 2]byte
	rand.Read(raw[:]) // never fails: it ends the program where there is no randomness
	return stay(hex.EncodeToString(raw[:]))
}

// meta is what memberlist tells of a node: that it is one, and its stay.
func (s stay) meta() []byte { return []byte(memberMark + " " + string(s)) }

// stayOf is what a node's metadata say; "" where they say none.
func stayOf(meta []byte) stay {
	_, text, _ := bytes.Cut(meta, []byte{' '})
	if len(text) != stayLength {
		return ""
	}
	return stay(text)
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
