package gossip

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/sluice-mesh/sluice/mesh"
)

// entropyVersion is of the exchange. A node of another version answers with its own, and
// both end it.
const entropyVersion = 1

// hello is what both sides say first. What follows the known fields is ignored: a later
// version may say more.
type hello struct {
	version byte
	count   uint32   // of records
	now     uint64   // State.Now, from before root
	root    mesh.Sum // of records
	members mesh.Sum // of the nodes that are alive by the sender's word
}

const helloSize = 1 + 4 + 8 + 2*mesh.SumSize

func (h hello) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{h.version}, h.count)
	b = binary.BigEndian.AppendUint64(b, h.now)
	return append(append(b, h.root[:]...), h.members[:]...)
}

func decodeHello(b []byte) (hello, error) {
	if len(b) > 0 && b[0] != entropyVersion {
		return hello{}, mesh.Refuse(UnknownVersion, "run the same version of sluice on all nodes", "a node exchanges records by version %d, this one by %d", b[0], entropyVersion)
	}
	if len(b) < helloSize {
		return hello{}, badFrame("a hello has %d bytes", len(b))
	}
	sums := b[helloSize-2*mesh.SumSize:]
	return hello{
		version: b[0], count: binary.BigEndian.Uint32(b[1:]), now: binary.BigEndian.Uint64(b[5:]),
		root: mesh.Sum(sums), members: mesh.Sum(sums[mesh.SumSize:]),
	}, nil
}

// short is as much of a sum as goes over where there are many: nobody finds two records of
// one, and the root is compared in full.
type short [16]byte

func shorten(s mesh.Sum) short { return short(s[:len(short{})]) }

type sums [mesh.BucketCount]short

func sumsOf(state State) sums {
	var s sums
	for i, sum := range state.Buckets() {
		s[i] = shorten(sum)
	}
	return s
}

func encodeSums(s sums) []byte {
	b := make([]byte, 0, len(s)*len(short{}))
	for i := range s {
		b = append(b, s[i][:]...)
	}
	return b
}

func decodeSums(b []byte) (sums, error) {
	var s sums
	if len(b) != len(s)*len(short{}) {
		return s, badFrame("the sums of buckets have %d bytes", len(b))
	}
	for i := range s {
		s[i] = short(b[i*len(short{}):])
	}
	return s, nil
}

// decodeAsk takes bucket numbers, each greater than the one before, so that no bucket is
// asked for twice.
func decodeAsk(b []byte) ([]uint8, error) {
	for i := 1; i < len(b); i++ {
		if b[i] <= b[i-1] {
			return nil, badFrame("buckets are asked for out of order")
		}
	}
	return b, nil
}

func encodeTaken(fresh int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(fresh)) }

func decodeTaken(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, badFrame("an answer to records has %d bytes", len(b))
	}
	return int(binary.BigEndian.Uint32(b)), nil
}

// A text is its length in one byte and its bytes: the kinds and IDs of records are short.
// One of hex digits, as IDs are, goes as the bytes that they stand for, with hexMark.
const (
	textLimit = 64
	hexMark   = 0x80
)

func appendText(b []byte, text string) []byte {
	if raw, ok := packed(text); ok {
		return append(append(b, hexMark|byte(len(raw))), raw...)
	}
	return append(append(b, byte(len(text))), text...)
}

// packed gives the bytes of a text that is lower-case hex digits, and nothing else.
func packed(text string) ([]byte, bool) {
	raw, err := hex.DecodeString(text)
	return raw, err == nil && len(raw) > 0 && hex.EncodeToString(raw) == text
}

// reader takes fields off a payload. What it gives after an error is zero.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && len(r.rest) < n {
		r.err = badFrame("a field of %d bytes has %d", n, len(r.rest))
	}
	if r.err != nil {
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) text() string {
	mark := r.take(1)[0]
	n := int(mark &^ hexMark)
	if r.err == nil && n > textLimit {
		r.err = badFrame("a text has %d bytes", n)
	}
	if r.err != nil {
		return ""
	}
	raw := r.take(n)
	if mark&hexMark != 0 {
		return hex.EncodeToString(raw)
	}
	return string(raw)
}

func (r *reader) key() mesh.Key {
	kind := r.text()
	return mesh.Key{Kind: mesh.Kind(kind), ID: r.text()}
}

func appendKey(b []byte, k mesh.Key) []byte {
	return appendText(appendText(b, string(k.Kind)), k.ID)
}

func appendHead(b []byte, h mesh.Head) []byte {
	b = binary.BigEndian.AppendUint64(appendKey(b, h.Key), h.Version.Time)
	b = appendText(b, string(h.Version.Writer))
	sum := shorten(h.Sum)
	return append(b, sum[:]...)
}

// decodeHeads gives heads whose sums are short: the rest is zero.
func decodeHeads(b []byte) ([]mesh.Head, error) {
	return decodeList(b, headsLimit, func(r *reader) mesh.Head {
		h := mesh.Head{Key: r.key()}
		h.Version.Time = binary.BigEndian.Uint64(r.take(8))
		h.Version.Writer = mesh.NodeID(r.text())
		copy(h.Sum[:], r.take(len(short{})))
		return h
	})
}

func decodeKeys(b []byte) ([]mesh.Key, error) { return decodeList(b, keysAtOnce, (*reader).key) }

func decodeList[T any](b []byte, limit int, one func(*reader) T) ([]T, error) {
	var list []T
	for r := (&reader{rest: b}); len(r.rest) > 0; {
		if len(list) == limit {
			return nil, badFrame("a list has more than %d items", limit)
		}
		x := one(r)
		if r.err != nil {
			return nil, r.err
		}
		list = append(list, x)
	}
	return list, nil
}

// parts joins what add appends of each item to payloads of at most framePart bytes and
// gives them to send. A text that is too long cannot be: records are checked for that.
func parts[T any](items []T, add func([]byte, T) []byte, send func([]byte) error) error {
	var payload []byte
	for _, x := range items {
		was := len(payload)
		payload = add(payload, x)
		if was > 0 && len(payload) > framePart {
			if err := send(payload[:was]); err != nil {
				return err
			}
			payload = append([]byte(nil), payload[was:]...)
		}
	}
	if len(payload) == 0 {
		return nil
	}
	return send(payload)
}
