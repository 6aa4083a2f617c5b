package gossip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

func newMemory() *memory {
	return &memory{alive: map[mesh.NodeID]bool{}, met: map[mesh.NodeID]uint64{}}
}

func exchangeOf(m *memory, conn net.Conn) *exchange {
	book := newLogbook(slog.New(slog.DiscardHandler))
	in := newDelegate(Config{ID: nodeID(0xfff), State: m}, newQueue(func() int { return 1 }), book)
	return &exchange{
		talk: newTalk(conn), state: m, take: in.take, book: book,
		ours: hello{version: entropyVersion, now: m.Now(), root: m.Root(), count: uint32(m.Count())},
		self: nodeID(0xfff), peer: nodeID(0xffe), refused: newRefused(nil),
	}
}

// swap runs one exchange that a begins, and returns both sides.
func swap(t interface{ Fatal(...any) }, a, b *memory, conn func(net.Conn) net.Conn) (asked, served *exchange) {
	here, there := net.Pipe()
	asked, served = exchangeOf(a, conn(here)), exchangeOf(b, there)
	finish(t, asked, served)
	return asked, served
}

// swapRemembering is swap where the side that asks remembers what was refused.
func swapRemembering(t interface{ Fatal(...any) }, a, b *memory, remembered *refused) {
	here, there := net.Pipe()
	asked, served := exchangeOf(a, here), exchangeOf(b, there)
	asked.refused = remembered
	finish(t, asked, served)
}

func finish(t interface{ Fatal(...any) }, asked, served *exchange) {
	done := make(chan error)
	go func() { done <- served.serve() }()
	_, err := asked.begin()
	asked.conn.Close()
	if served := <-done; err != nil || served != nil {
		t.Fatal(err, served)
	}
}

// stamped is a record with its bytes.
func stamped(t interface{ Fatal(...any) }, r mesh.Record) mesh.Record {
	r, err := Seal(r, mesh.Record{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serviceAt is a sealed record of a service.
func serviceAt(t interface{ Fatal(...any) }, n int, time uint64, ports ...mesh.PublishedPort) mesh.Record {
	r := service(n, ports...)
	r.Version, r.Claim = mesh.Version{Time: time, Writer: nodeID(1)}, 1
	return stamped(t, r)
}

func plainConn(c net.Conn) net.Conn { return c }

// Whatever two nodes hold, one exchange makes them hold the same: of each key the greater
// version, and nothing else.
func TestExchangeMakesEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, all := newMemory(), newMemory(), newMemory()
		for _, r := range rapid.SliceOfN(records(), 0, 20).Draw(t, "records") {
			for _, m := range []*memory{a, b} {
				r := r
				switch rapid.IntRange(0, 3).Draw(t, "where") {
				case 0:
					continue
				case 1:
					r.Version.Time += uint64(rapid.IntRange(1, 3).Draw(t, "later"))
				}
				if r.Validate() != nil {
					continue
				}
				r = stamped(t, r)
				if rapid.Bool().Draw(t, "signed anew") { // one version, two contents
					r.Sig = rapid.SliceOfN(rapid.Byte(), 1, 3).Draw(t, "signature")
				}
				m.Merge([]mesh.Record{r})
				all.Merge([]mesh.Record{r})
			}
		}
		differ := a.Root() != b.Root()
		swap(t, a, b, plainConn)
		if a.Root() != all.Root() || b.Root() != all.Root() {
			t.Fatal("they do not hold the union")
		}
		if differ && len(a.met)+len(b.met) > 0 {
			t.Fatal("nodes that differed have met")
		}
		if asked, served := swap(t, a, b, plainConn); asked.moved+served.moved != 0 {
			t.Fatal("something moved where nothing differs")
		}
		if a.met[nodeID(0xffe)] != b.Now() || b.met[nodeID(0xffe)] != a.Now() {
			t.Fatal("equal nodes have not met")
		}
	})
}

func TestDiffer(t *testing.T) {
	head := func(id string, time uint64, sum byte) mesh.Head {
		return mesh.Head{Key: mesh.Key{Kind: mesh.KindService, ID: id}, Version: mesh.Version{Time: time, Writer: nodeID(1)}, Sum: mesh.Sum{sum}}
	}
	ours := []mesh.Head{head("same", 1, 1), head("newer here", 2, 2), head("older here", 1, 1), head("only here", 1, 1), head("two contents", 1, 1)}
	theirs := []mesh.Head{head("same", 1, 1), head("newer here", 1, 1), head("older here", 2, 2), head("two contents", 1, 2), head("only there", 1, 1), head("only there", 1, 1)}
	give, want := differ(ours, theirs)
	names := func(keys []mesh.Key) string {
		var ids []string
		for _, k := range keys {
			ids = append(ids, k.ID)
		}
		return fmt.Sprint(ids)
	}
	if got := names(give); got != "[newer here only here two contents]" {
		t.Error("given:", got)
	}
	if got := names(want); got != "[older here two contents only there]" {
		t.Error("wanted:", got)
	}
}

// counted tells what goes over a connection.
type counted struct {
	net.Conn
	sent, got *int64
	frames    *frames
}

// frames are what goes over in one direction. A header is always written whole.
type frames struct{ longest, left int }

func (f *frames) note(b []byte) {
	if f.left == 0 {
		f.left = frameHeader + int(binary.BigEndian.Uint32(b[1:]))
		f.longest = max(f.longest, f.left)
	}
	f.left -= len(b)
}

func (c counted) Write(b []byte) (int, error) {
	*c.sent += int64(len(b))
	c.frames.note(b)
	return c.Conn.Write(b)
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	*c.got += int64(n)
	return n, err
}

// A state larger than any message goes over in parts.
func TestExchangeOfLargeState(t *testing.T) {
	const size = 20_000
	full, empty := newMemory(), newMemory()
	bytes := 0
	for i := range size {
		r := serviceAt(t, i, 5, mesh.PublishedPort{Proto: mesh.TCP, Published: uint16(1 + i%60000), Target: 80})
		bytes += len(r.Body)
		full.Merge([]mesh.Record{r})
	}
	for _, c := range []struct {
		name  string
		asker *memory
		other *memory
	}{{"taken", empty, full}, {"given", full, newMemory()}} {
		t.Run(c.name, func(t *testing.T) {
			var sent, got int64
			var wrote frames
			began := time.Now()
			swap(t, c.asker, c.other, func(conn net.Conn) net.Conn { return counted{conn, &sent, &got, &wrote} })
			if c.asker.Root() != c.other.Root() || c.asker.Count() != size {
				t.Fatal("they differ")
			}
			if wrote.longest > framePart+frameHeader+1024 {
				t.Errorf("a frame has %d bytes", wrote.longest)
			}
			if total := sent + got; total > int64(bytes)*11/10 {
				t.Errorf("%d bytes for %d bytes of records", total, bytes)
			}
			t.Logf("%d records of %d bytes: %d bytes in %v, longest frame %d", size, bytes, sent+got, time.Since(began), wrote.longest)
		})
	}
	// One record differs: what goes over does not grow with the state.
	full.Merge([]mesh.Record{serviceAt(t, 7, 9)})
	var sent, got int64
	var wrote frames
	swap(t, full, empty, func(conn net.Conn) net.Conn { return counted{conn, &sent, &got, &wrote} })
	if total := sent + got; total > 20_000 {
		t.Errorf("%d bytes for one record", total)
	}
	t.Logf("one record of %d: %d bytes", size, sent+got)
}

// Each frame is a packet, and each that is lost costs time: what differs is told in few, in however
// many buckets it is.
func TestExchangeTakesFewFrames(t *testing.T) {
	for _, c := range []struct{ here, there int }{{500, 500}, {500, 0}, {0, 500}} {
		a, b := apart(t, c.here, c.there)
		here, there := net.Pipe()
		var asked, served int
		finish(t, exchangeOf(a, written{here, &asked}), exchangeOf(b, written{there, &served}))
		if a.Root() != b.Root() || asked+served > 25 {
			t.Errorf("%+v: %d and %d records after %d writes there and %d back", c, a.Count(), b.Count(), asked, served)
		}
	}
}

// written counts how often something is written to a connection.
type written struct {
	net.Conn
	times *int
}

func (w written) Write(b []byte) (int, error) {
	*w.times++
	return w.Conn.Write(b)
}

// A record larger than a part has a frame of its own.
func TestExchangeOfLargeRecord(t *testing.T) {
	a, b := newMemory(), newMemory()
	var ports []mesh.PublishedPort
	for i := range uint16(4096) {
		ports = append(ports, mesh.PublishedPort{Proto: mesh.TCP, Published: 1 + i, Target: 80})
	}
	for i := range 3 {
		a.Merge([]mesh.Record{serviceAt(t, i, 5, ports...)})
	}
	swap(t, a, b, plainConn)
	if b.Count() != 3 {
		t.Errorf("%d of 3 records", b.Count())
	}
}

func TestUnknownVersionIsNamed(t *testing.T) {
	here, there := net.Pipe()
	served := exchangeOf(newMemory(), there)
	done := make(chan error)
	go func() { done <- served.serve() }()
	asking := newTalk(here)
	later := append(hello{version: entropyVersion + 1}.encode(), "and more"...)
	if err := asking.write(frameHello, later); err != nil {
		t.Fatal(err)
	}
	answer, err := asking.expect(frameHello)
	if err != nil || answer[0] != entropyVersion {
		t.Errorf("answer %v, %v", answer, err)
	}
	if err := <-done; mesh.ReasonOf(err) != UnknownVersion {
		t.Error(err)
	}
	longer := append(exchangeOf(newMemory(), here).ours.encode(), "a field of later"...)
	if _, err := decodeHello(longer); err != nil {
		t.Error("a longer hello of this version is refused:", err)
	}
	here.Close()
}

// What the other side claims costs no memory before it comes.
func TestDeclaredSizesCostNothing(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, _, err := readFrame(bytes.NewReader([]byte{byte(frameRecords), 0, 0x0f, 0xff, 0xff, 1}))
		if err == nil {
			t.Fatal("a frame without its bytes was read")
		}
	}
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 100*4*firstRead {
		t.Errorf("%d bytes spent on 100 frames of one byte", spent)
	}
	_, _, err := readFrame(bytes.NewReader([]byte{byte(frameRecords), 0x40, 0, 0, 0}))
	if mesh.ReasonOf(err) != BadFrame {
		t.Errorf("1 GiB: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte{byte(frameAsk), 0, 0, 0, 2, 1, 2})
	f.Add([]byte{byte(frameRecords), 0, 1, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, payload, err := readFrame(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, payload); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
			t.Fatalf("%v: %x is not what was read, %x", err, again.Bytes(), data)
		}
	})
}

// Every payload that is taken is one that could have been sent.
func FuzzPayloads(f *testing.F) {
	h := mesh.Head{Key: service(1).Key(), Version: mesh.Version{Time: 1, Writer: nodeID(1)}, Sum: mesh.Sum{1}}
	f.Add(appendHead(appendHead(nil, h), h))
	f.Add(appendKey(nil, h.Key))
	f.Add(hello{version: entropyVersion, count: 3}.encode())
	f.Add(encodeSums(sums{}))
	f.Add([]byte{1, 2, 255})
	f.Add(encodeTaken(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if heads, err := decodeHeads(b); err == nil {
			var sent []byte
			for _, h := range heads {
				sent = appendHead(sent, h)
			}
			again, err := decodeHeads(sent)
			if err != nil || !slices.Equal(again, heads) {
				t.Fatalf("%v became %v, %v", heads, again, err)
			}
		}
		if keys, err := decodeKeys(b); err == nil {
			var sent []byte
			for _, k := range keys {
				sent = appendKey(sent, k)
			}
			again, err := decodeKeys(sent)
			if err != nil || !slices.Equal(again, keys) {
				t.Fatalf("%v became %v, %v", keys, again, err)
			}
		}
		if h, err := decodeHello(b); err == nil {
			equalBytes(t, h.encode(), b[:helloSize])
		}
		if s, err := decodeSums(b); err == nil {
			equalBytes(t, encodeSums(s), b)
		}
		if n, err := decodeTaken(b); err == nil {
			equalBytes(t, encodeTaken(n), b)
		}
		if buckets, err := decodeAsk(b); err == nil && (len(buckets) > mesh.BucketCount || !slices.IsSorted(buckets)) {
			t.Fatalf("buckets %v", buckets)
		}
	})
}

func equalBytes(t *testing.T, a, b []byte) {
	t.Helper()
	if !bytes.Equal(a, b) {
		t.Fatalf("%x became %x", b, a)
	}
}

// script is the other side: it says what it says whatever is answered.
type script struct {
	net.Conn
	says io.Reader
	sent int
}

func (s *script) Read(b []byte) (int, error)  { return s.says.Read(b) }
func (s *script) Write(b []byte) (int, error) { s.sent += len(b); return len(b), nil }
func (s *script) SetDeadline(time.Time) error { return nil }

// Neither side can be made to fail otherwise than by an error, nor to take what is no record.
func FuzzExchange(f *testing.F) {
	frames := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	frame := func(k frameKind, payload []byte) []byte {
		var b bytes.Buffer
		writeFrame(&b, k, payload)
		return b.Bytes()
	}
	greet := frame(frameHello, hello{version: entropyVersion, count: 1}.encode())
	line := message(goodLine(f))
	h := mesh.Head{Key: service(1).Key(), Version: mesh.Version{Time: 2, Writer: nodeID(1)}}
	f.Add(frames(greet, frame(frameAsk, nil), frame(frameAsk, []byte{1, 7}), frame(frameRecords, line), frame(frameWant, appendKey(nil, service(9).Key()))))
	f.Add(frames(greet, frame(frameSums, encodeSums(sums{5: short{1}, 200: short{2}})), frame(frameHeads, appendHead(nil, h)), frame(frameEnd, nil), frame(frameTaken, encodeTaken(1)), frame(frameRecords, line), frame(frameEnd, nil)))
	f.Add(frames(frame(frameBusy, nil)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, side := range []func(*exchange) error{(*exchange).serve, func(x *exchange) error { _, err := x.begin(); return err }} {
			m := newMemory()
			m.Merge([]mesh.Record{serviceAt(t, 9, 5)})
			s := &script{says: bytes.NewReader(data)}
			_ = side(exchangeOf(m, s))
			for _, r := range m.state.Records() {
				if err := r.Validate(); err != nil {
					t.Fatal(err)
				}
			}
			if limit := (len(data) + 1) * (mesh.BucketCount*mesh.SumSize + 1024); s.sent > limit {
				t.Fatalf("%d bytes sent for %d", s.sent, len(data))
			}
		}
	})
}
