package kernel

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// reply is what a kernel answers to the request of a sequence.
func reply(e *echo, from netip.Addr, sequence uint16) []byte {
	message := e.request(sequence)
	message[0] = icmpEchoReply
	message[2], message[3] = 0, 0
	binary.BigEndian.PutUint16(message[2:4], checksum(message[:]))
	header := make([]byte, 20)
	header[0], header[9] = 0x45, 1
	source := from.As4()
	copy(header[12:16], source[:])
	return append(header, message[:]...)
}

func TestEchoAnswer(t *testing.T) {
	e, peer := newEcho(""), netip.MustParseAddr("198.18.0.32")
	good := reply(e, peer, 700)
	from, sequence, ok := e.answer(good)
	if !ok || from != peer || sequence != 700 {
		t.Fatalf("got %v %d %v", from, sequence, ok)
	}
	// The header's other fields are the kernel's business: it delivered the packet.
	meaning := map[int]bool{0: true, 9: true}
	for i := 20; i < len(good); i++ {
		meaning[i] = true
	}
	for i := range meaning {
		bad := append([]byte(nil), good...)
		bad[i]++
		if _, _, ok := e.answer(bad); ok {
			t.Errorf("byte %d changed, and it still counts", i)
		}
	}
	for n := range good {
		if _, _, ok := e.answer(good[:n]); ok {
			t.Errorf("the first %d bytes count", n)
		}
	}
	if _, _, ok := e.answer(append(good, 0)); ok {
		t.Error("a longer packet counts")
	}
	if _, _, ok := newEcho("").answer(good); ok {
		t.Error("the answer to another one counts")
	}
	request := e.request(700)
	if _, _, ok := e.answer(append(good[:20:20], request[:]...)); ok {
		t.Error("a request counts as an answer")
	}
}

func FuzzEchoAnswer(f *testing.F) {
	e := newEcho("")
	f.Add(reply(e, netip.MustParseAddr("198.18.0.32"), 1))
	f.Add([]byte{0x4f, 9: 1, 27: 0})
	f.Fuzz(func(_ *testing.T, packet []byte) { e.answer(packet) })
}
