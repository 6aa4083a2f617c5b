package gossip

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// frameKind is the first byte of a frame of an exchange; see entropy.go for their order.
type frameKind byte

const (
	frameHello   frameKind = iota + 1 // who starts, and the answer: hello
	frameBusy                         // instead of the answer: come again
	frameAsk                          // bucket numbers; none: the sum of each bucket
	frameSums                         // the answer to an empty ask
	frameHeads                        // a part of the answer to others, which frameEnd ends
	frameRecords                      // a message, as wire.go makes it
	frameTaken                        // the answer to it: how many were new
	frameWant                         // keys; the answer is frameRecords, which frameEnd ends
	frameFetch                        // bucket numbers; the answer is as to frameWant
	frameEnd
)

// Limits of an exchange. A part is what a sender makes at most, except where one record is
// larger; frameLimit is what a receiver takes. What came of a frame that does not come whole is
// lost: the slowest link carries several parts in an exchange.
const (
	frameHeader  = 5
	framePart    = 64 << 10
	frameLimit   = noticeLimit
	writePart    = 16 << 10        // of a frame, at once
	stallTimeout = 5 * time.Second // in which nothing comes, or no writePart goes, after what is ahead of it
	talkTimeout  = time.Minute     // for a whole exchange; the next one goes on from there
	slowest      = 8 << 10         // bytes in a second of a link that is good enough
	aheadMost    = 4 * framePart   // so many under way are waited for: a peer that died holds its turn no longer
)

// talk is one end of an exchange. It fails where it stalls, and not where a frame comes bit by
// bit: with a time for whole ones, nodes that lacked many records never agreed where packets were
// lost. Not safe for concurrent use.
type talk struct {
	conn  net.Conn
	ends  time.Time
	ahead int // bytes that were written since the other side was heard: they may be under way
}

func newTalk(conn net.Conn) *talk { return &talk{conn: conn, ends: time.Now().Add(talkTimeout)} }

// Read takes what has come.
func (t *talk) Read(b []byte) (int, error) {
	t.deadline()
	n, err := t.conn.Read(b)
	if n > 0 {
		t.ahead = 0
	}
	return n, err
}

// Write sends part after part.
func (t *talk) Write(b []byte) (n int, err error) {
	for part := range slices.Chunk(b, writePart) {
		t.deadline() // a kernel whose buffer is full takes more only when much of it has gone
		m, err := t.conn.Write(part)
		n, t.ahead = n+m, t.ahead+m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// deadline makes the next step fail where it takes too long. A connection that has ended
// may refuse one, and says so when it is used.
func (t *talk) deadline() {
	at := time.Now().Add(stallTimeout + time.Duration(min(t.ahead, aheadMost))*time.Second/slowest)
	if at.After(t.ends) {
		at = t.ends
	}
	_ = t.conn.SetDeadline(at)
}

func (t *talk) write(kind frameKind, payload []byte) error {
	if err := writeFrame(t, kind, payload); err != nil {
		return fmt.Errorf("send frame %d: %w", kind, err)
	}
	return nil
}

func (t *talk) read() (frameKind, []byte, error) {
	kind, payload, err := readFrame(t)
	if err != nil {
		return 0, nil, fmt.Errorf("receive frame: %w", err)
	}
	return kind, payload, nil
}

// expect reads a frame of that kind.
func (t *talk) expect(want frameKind) ([]byte, error) {
	kind, payload, err := t.read()
	switch {
	case err != nil:
		return nil, err
	case kind == frameBusy:
		return nil, mesh.Refuse(Busy, "nothing: it is tried again", "the node has too many exchanges")
	case kind != want:
		return nil, badFrame("a frame of kind %d came where %d belongs", kind, want)
	default:
		return payload, nil
	}
}

func badFrame(format string, args ...any) error {
	return mesh.Refuse(BadFrame, "update the node that sent it", format, args...)
}

func writeFrame(w io.Writer, kind frameKind, payload []byte) error {
	frame := make([]byte, frameHeader, frameHeader+len(payload))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	_, err := w.Write(append(frame, payload...))
	return err
}

// firstRead is how much memory a frame gets before any of it has come: a length alone
// must cost nothing.
const firstRead = 16 << 10

func readFrame(r io.Reader) (frameKind, []byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	size := int(binary.BigEndian.Uint32(header[1:]))
	if size > frameLimit {
		return 0, nil, badFrame("a frame has %d bytes, the limit is %d", size, frameLimit)
	}
	payload := make([]byte, min(size, firstRead))
	for have := 0; ; {
		if _, err := io.ReadFull(r, payload[have:]); err != nil {
			return 0, nil, io.ErrUnexpectedEOF
		}
		have = len(payload)
		if have == size {
			return frameKind(header[0]), payload, nil
		}
		payload = append(payload, make([]byte, min(have, size-have))...)
	}
}
