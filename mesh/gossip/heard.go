package gossip

import (
	"bytes"
	"hash/maphash"

	"github.com/sluice-mesh/sluice/mesh"
)

// heard remembers the lines of datagrams that were taken up. Gossip brings each record about ten
// times, and to read one and its signature takes longer than all else that is done with it.
// What was forgotten is only read again, and what is left out for nothing, as two lines have one
// hash, the next exchange brings. Not safe for concurrent use.
type heard struct {
	seed     maphash.Seed // nobody else can find two lines of one hash
	now, old map[uint64]struct{}
}

// heardLimit is how many lines are remembered at least, and half of how many at most.
const heardLimit = 8192

func newHeard() *heard { return &heard{seed: maphash.MakeSeed(), now: map[uint64]struct{}{}} }

// news is a message without the lines that are remembered; one that is not of records is as it was.
func (h *heard) news(msg []byte) []byte {
	if len(msg) == 0 || msg[0] != wireVersion {
		return msg
	}
	news := make([]byte, 1, len(msg))
	news[0] = wireVersion
	for line := range bytes.Lines(msg[1:]) {
		if !h.has(h.sum(bytes.TrimSuffix(line, []byte{'\n'}))) {
			news = append(news, line...)
		}
	}
	return news
}

func (h *heard) has(sum uint64) bool {
	_, now := h.now[sum]
	_, old := h.old[sum]
	return now || old
}

func (h *heard) sum(line []byte) uint64 { return maphash.Bytes(h.seed, line) }

// note remembers the lines of records that were read from messages.
func (h *heard) note(records []mesh.Record) {
	for _, r := range records {
		line, err := Encode(r)
		if err != nil {
			continue // then it is read again
		}
		if len(h.now) >= heardLimit {
			h.now, h.old = make(map[uint64]struct{}, heardLimit), h.now
		}
		h.now[h.sum(line)] = struct{}{}
	}
}
