package gossip

import (
	"errors"
	"io"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// exchange makes two nodes hold the same records. The one that began it asks and
// decides, one frame after the other; the one that serves only answers:
//
//	hello        -> hello          of the same root: they do
//	ask          -> sums           which buckets differ
//	ask buckets  -> heads… end     which records differ, for some buckets at a time
//	records      -> taken          what is missing there, or older
//	want         -> records… end   what is missing here, or older
//	fetch        -> records… end   all of some buckets, of which nothing is here
//
// Neither side ever holds more than the heads of one ask and one frame of records, how
// many records there may be. Not safe for concurrent use.
type exchange struct {
	*talk
	self    mesh.NodeID
	peer    mesh.NodeID
	state   State
	refused *refused
	// take merges a message, notes what was new and returns how many records were.
	take  func(msg []byte) (fresh int)
	book  *logbook
	ours  hello
	moved int // records that were new on either side
}

// headsAtOnce is about how many heads one ask is for, and headsLimit how many are taken.
const (
	headsAtOnce = 4096
	headsLimit  = 1 << 16
	keysAtOnce  = 2048 // in one want
)

// begin is the asking side. It returns the other's hello.
func (x *exchange) begin() (hello, error) {
	if err := x.write(frameHello, x.ours.encode()); err != nil {
		return hello{}, err
	}
	payload, err := x.expect(frameHello)
	if err != nil {
		return hello{}, err
	}
	theirs, err := decodeHello(payload)
	if err != nil || x.equal(theirs) {
		return theirs, err
	}
	differing, err := x.differing()
	if err != nil {
		return theirs, err
	}
	for group := range slices.Chunk(differing, bucketsAtOnce(max(x.ours.count, theirs.count))) {
		if err := x.level(group); err != nil {
			return theirs, err
		}
	}
	return theirs, nil
}

// equal tells whether both hold the same. Then this node has what the other one had at its
// now, whatever either of them refuses to take.
func (x *exchange) equal(theirs hello) bool {
	if theirs.root != x.ours.root {
		return false
	}
	x.state.Met(x.peer, theirs.now)
	return true
}

// bucketsAtOnce is how many buckets of a state of so many records one ask is for.
func bucketsAtOnce(count uint32) int {
	return int(min(max(mesh.BucketCount*headsAtOnce/max(uint64(count), 1), 1), mesh.BucketCount))
}

func (x *exchange) differing() ([]uint8, error) {
	if err := x.write(frameAsk, nil); err != nil {
		return nil, err
	}
	payload, err := x.expect(frameSums)
	if err != nil {
		return nil, err
	}
	theirs, err := decodeSums(payload)
	if err != nil {
		return nil, err
	}
	var differing []uint8
	for i, sum := range sumsOf(x.state) {
		if sum != theirs[i] {
			differing = append(differing, uint8(i))
		}
	}
	return differing, nil
}

// untilEnd hands on the payloads of one kind of frame until frameEnd.
func (x *exchange) untilEnd(want frameKind, each func([]byte) error) error {
	for {
		kind, payload, err := x.read()
		switch {
		case err != nil:
			return err
		case kind == frameEnd:
			return nil
		case kind != want:
			return badFrame("a frame of kind %d came where %d belongs", kind, want)
		}
		if err := each(payload); err != nil {
			return err
		}
	}
}

// give sends records whose contents here have those sums.
func (x *exchange) give(keys []mesh.Key, sums map[mesh.Key]short) error {
	return x.eachMessage(keys, func(sent []mesh.Key, msg []byte) error {
		if err := x.write(frameRecords, msg); err != nil {
			return err
		}
		payload, err := x.expect(frameTaken)
		if err != nil {
			return err
		}
		fresh, err := decodeTaken(payload)
		x.moved += fresh
		if err != nil {
			return err
		}
		for _, k := range sent {
			switch one := (refusal{x.peer, k, sums[k]}); fresh {
			case 0: // or they came there by gossip meanwhile, and are not offered again
				x.refused.note(one)
			case len(sent):
				x.refused.taken(one)
			}
		}
		return nil
	})
}

// eachMessage encodes the records of keys in messages. Records that changed meanwhile go
// as they are now, and those that are gone do not.
func (x *exchange) eachMessage(keys []mesh.Key, send func(keys []mesh.Key, msg []byte) error) error {
	for some := range slices.Chunk(keys, keysAtOnce) {
		lines, sent := make([][]byte, 0, len(some)), make([]mesh.Key, 0, len(some))
		size := 0
		flush := func() error {
			if len(lines) == 0 {
				return nil
			}
			err := send(sent, message(lines...))
			lines, sent, size = lines[:0], sent[:0], 0
			return err
		}
		for _, r := range x.state.Select(some) {
			line, err := Encode(r)
			if err == nil && len(line)+2 > frameLimit {
				err = badFrame("it has %d bytes", len(line))
			}
			if err != nil {
				x.book.Error("record not sent", "kind", r.Kind, "id", r.ID, "err", err)
				continue
			}
			if size+len(line) > framePart {
				if err := flush(); err != nil {
					return err
				}
			}
			lines, sent, size = append(lines, line), append(sent, r.Key()), size+len(line)+1
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// get asks for records and takes them.
func (x *exchange) get(kind frameKind, payload []byte) error {
	if err := x.write(kind, payload); err != nil {
		return err
	}
	return x.untilEnd(frameRecords, func(msg []byte) error {
		x.moved += x.take(msg)
		return nil
	})
}

// serve is the answering side. It ends when the other closes the connection.
func (x *exchange) serve() error {
	payload, err := x.expect(frameHello)
	if err != nil {
		return err
	}
	// The answer goes to any version: it tells the other side which one this is.
	if err := x.write(frameHello, x.ours.encode()); err != nil {
		return err
	}
	theirs, err := decodeHello(payload)
	if err != nil {
		return err
	}
	x.equal(theirs)
	for {
		kind, payload, err := x.read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = x.answer(kind, payload)
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) answer(kind frameKind, payload []byte) error {
	switch kind {
	case frameAsk:
		return x.answerAsk(payload)
	case frameRecords:
		fresh := x.take(payload)
		x.moved += fresh
		return x.write(frameTaken, encodeTaken(fresh))
	case frameWant:
		keys, err := decodeKeys(payload)
		if err == nil {
			err = x.sendRecords(keys)
		}
		if err != nil {
			return err
		}
		return x.write(frameEnd, nil)
	case frameFetch:
		return x.answerFetch(payload)
	default:
		return badFrame("a frame of kind %d is not a question", kind)
	}
}

func (x *exchange) sendRecords(keys []mesh.Key) error {
	return x.eachMessage(keys, func(_ []mesh.Key, msg []byte) error { return x.write(frameRecords, msg) })
}

func (x *exchange) answerFetch(payload []byte) error {
	buckets, err := decodeAsk(payload)
	if err != nil {
		return err
	}
	var keys []mesh.Key
	for _, b := range buckets {
		for _, h := range x.state.Heads(b) {
			keys = append(keys, h.Key)
		}
		if len(keys) < keysAtOnce {
			continue
		}
		if err := x.sendRecords(keys); err != nil {
			return err
		}
		keys = keys[:0]
	}
	if err := x.sendRecords(keys); err != nil {
		return err
	}
	return x.write(frameEnd, nil)
}

func (x *exchange) answerAsk(payload []byte) error {
	buckets, err := decodeAsk(payload)
	if err != nil {
		return err
	}
	if len(buckets) == 0 {
		return x.write(frameSums, encodeSums(sumsOf(x.state)))
	}
	// Not bucket by bucket: each frame is a packet at least, and may be the one that is lost.
	var heads []mesh.Head
	for _, b := range buckets {
		if heads = append(heads, x.state.Heads(b)...); len(heads) < headsAtOnce {
			continue
		}
		if err := x.sendHeads(heads); err != nil {
			return err
		}
		heads = heads[:0]
	}
	if err := x.sendHeads(heads); err != nil {
		return err
	}
	return x.write(frameEnd, nil)
}

func (x *exchange) sendHeads(heads []mesh.Head) error {
	return parts(heads, appendHead, func(part []byte) error { return x.write(frameHeads, part) })
}
