package gossip

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
)

// stay is a random name of the time from a Gossip's start to its end, or until it has heard too
// many words to remember them all. It is told to all by memberlist. Who has the key of gossip can tell another one; then what is said to the node is
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
