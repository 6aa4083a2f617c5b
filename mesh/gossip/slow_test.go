package gossip

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// slow is an end of a stream that takes everything at once and sends a kilobyte in each pause, and
// nothing any more after so many of them, unless that is 0.
type slow struct {
	net.Conn
	pause time.Duration
	most  int
	queue chan []byte
}

func slowly(conn net.Conn, pause time.Duration, most int, tasks *sync.WaitGroup) *slow {
	s := &slow{Conn: conn, pause: pause, most: most, queue: make(chan []byte, 1<<12)}
	tasks.Go(s.send)
	return s
}

func (s *slow) send() {
	defer s.Conn.Close()
	sent := 0
	for b := range s.queue {
		time.Sleep(s.pause)
		if sent++; s.most > 0 && sent > s.most {
			continue
		}
		if _, err := s.Conn.Write(b); err != nil {
			return
		}
	}
}

func (s *slow) Write(b []byte) (int, error) {
	for part := range slices.Chunk(b, 1024) {
		s.queue <- bytes.Clone(part)
	}
	return len(b), nil
}

func (s *slow) SetDeadline(at time.Time) error { return s.SetReadDeadline(at) }

func (s *slow) Close() error {
	close(s.queue)
	return nil
}

// swapSlowly runs one exchange that a begins, and returns the error of each side.
func swapSlowly(a, b *memory, pause time.Duration, most int) (asking, serving error) {
	here, there := net.Pipe()
	var tasks sync.WaitGroup
	asked, served := exchangeOf(a, slowly(here, pause, most, &tasks)), exchangeOf(b, slowly(there, pause, most, &tasks))
	tasks.Go(func() {
		serving = served.serve()
		served.conn.Close()
	})
	_, asking = asked.begin()
	asked.conn.Close()
	tasks.Wait()
	return asking, serving
}

// apart are two nodes, each with so many records that the other lacks.
func apart(t *testing.T, here, there int) (a, b *memory) {
	t.Helper()
	a, b = newMemory(), newMemory()
	for i := range here + there {
		to := a
		if i >= here {
			to = b
		}
		to.Merge([]mesh.Record{serviceAt(t, i, 5)})
	}
	return a, b
}

// A link on which it takes half a minute to bring what is missing is good enough.
func TestExchangeOverASlowLink(t *testing.T) {
	for _, c := range []struct {
		name        string
		here, there int
	}{{"both lack something", 1200, 1200}, {"one has nothing", 0, 1200}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := apart(t, c.here, c.there)
				began := time.Now()
				asking, serving := swapSlowly(a, b, time.Second/10, 0)
				if asking != nil || serving != nil || a.Root() != b.Root() {
					t.Errorf("%d and %d records: %v, %v", a.Count(), b.Count(), asking, serving)
				}
				if took := time.Since(began); took < 2*stallTimeout {
					t.Errorf("it took %v: the link is not slow", took)
				}
			})
		})
	}
}

// A stream on which nothing comes any more is given up soon. What came stays, and so the next goes
// on from there.
func TestExchangeThatStalls(t *testing.T) {
	const most = 80
	for _, c := range []struct {
		name        string
		here, there int
	}{{"given", 700, 0}, {"taken", 0, 700}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := apart(t, c.here, c.there)
				stalled := 0
				for try := 1; a.Root() != b.Root(); try++ {
					had, began := a.Count()+b.Count(), time.Now()
					asking, serving := swapSlowly(a, b, time.Millisecond, most)
					if got := a.Count() + b.Count() - had; try == 20 || got == 0 {
						t.Fatalf("try %d brought %d records: %v, %v", try, got, asking, serving)
					}
					if took := time.Since(began); took > 4*stallTimeout {
						t.Errorf("try %d took %v", try, took)
					}
					if asking != nil {
						stalled++
					}
				}
				if stalled == 0 {
					t.Error("no stream stalled")
				}
			})
		})
	}
}
