package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

// world is an upstream in virtual time, behind net.Pipes.
type world struct {
	mu     sync.Mutex
	answer func(q *dns.Msg) *dns.Msg // nil or nil from it: silence
	asked  int
	work   sync.WaitGroup
}

func (w *world) set(answer func(q *dns.Msg) *dns.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = answer
}

func (w *world) DialContext(_ context.Context, network, _ string) (net.Conn, error) {
	if network != "udp" {
		return nil, errors.New("no TCP here")
	}
	client, server := net.Pipe()
	w.work.Go(func() {
		defer server.Close()
		buf := make([]byte, 4096)
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		q.Unpack(buf[:n])
		w.mu.Lock()
		answer := w.answer
		w.asked++
		w.mu.Unlock()
		if answer != nil {
			if m := answer(q); m != nil {
				wire, _ := m.Pack()
				server.Write(wire)
				return
			}
		}
		server.Read(buf) // until the client gives up
	})
	return client, nil
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

// inTime runs do with a forwarder in virtual time.
func inTime(t *testing.T, do func(t *testing.T, w *world, f *Forwarder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		f := NewForwarder(ForwarderConfig{Dialer: w})
		f.SetUpstreams(ports("192.0.2.53:53"))
		do(t, w, f)
		f.Close()
		w.work.Wait()
	})
}

// get asks as an asker does and says what came: address or rcode, TTL, whether it is stale.
func get(t *testing.T, f *Forwarder, name string) string {
	t.Helper()
	res := f.ask(t.Context(), lookup{name: name, qtype: dns.TypeA})
	if res.msg == nil {
		return "failed: " + res.text
	}
	out := address(res.msg)
	for _, rr := range append(res.msg.Answer, res.msg.Ns...) {
		out += fmt.Sprint(" ", rr.Header().Ttl)
	}
	if res.stale {
		out += " stale"
	}
	return out
}

func expect(t *testing.T, f *Forwarder, name, want string) {
	t.Helper()
	if got := get(t, f, name); got != want {
		t.Errorf("%s: %s, want %s", name, got, want)
	}
}

func negative(rcode int, ttl, minimum uint32) func(q *dns.Msg) *dns.Msg {
	return func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "org.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl}, Ns: "a.", Mbox: "b.", Minttl: minimum}}
		return m
	}
}

func positive(ttl uint32) func(q *dns.Msg) *dns.Msg {
	return func(q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", ttl) }
}

func TestTTLCountsDown(t *testing.T) {
	inTime(t, func(t *testing.T, w *world, f *Forwarder) {
		t.Helper()
		w.set(positive(100))
		expect(t, f, "a.", "192.0.2.1 100")
		time.Sleep(40 * time.Second)
		expect(t, f, "a.", "192.0.2.1 60")
		time.Sleep(60*time.Second - time.Millisecond)
		expect(t, f, "a.", "192.0.2.1 1")
		if n := w.count(); n != 1 {
			t.Errorf("%d questions", n)
		}
		time.Sleep(time.Millisecond)
		expect(t, f, "a.", "192.0.2.1 100")
		if n := w.count(); n != 2 {
			t.Errorf("%d questions", n)
		}
	})
}

func TestLifetimes(t *testing.T) {
	for _, tt := range []struct {
		why    string
		answer func(q *dns.Msg) *dns.Msg
		want   time.Duration
	}{
		{"positive", positive(7), 7 * time.Second},
		{"zero", positive(0), 0},
		{"the highest bit is zero", positive(1 << 31), 0},
		{"a month is a day", positive(30 * 86400), maxTTL},
		{"no such name, by the minimum", negative(dns.RcodeNameError, 900, 60), time.Minute},
		{"by the SOA's own", negative(dns.RcodeNameError, 60, 900), time.Minute},
		{"no data", negative(dns.RcodeSuccess, 60, 900), time.Minute},
		{"negative for a day is an hour", negative(dns.RcodeNameError, 86400, 86400), time.Hour},
		{"negative without SOA", func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNameError) }, 0},
		{"the least of a chain", func(q *dns.Msg) *dns.Msg {
			m := give(q, "192.0.2.1", 300)
			m.Answer = append([]dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 20}, Target: "b."}}, m.Answer...)
			return m
		}, 20 * time.Second},
		{"a chain that ends nowhere", func(q *dns.Msg) *dns.Msg {
			m := negative(dns.RcodeSuccess, 60, 50)(q)
			m.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 3000}, Target: "b."}}
			return m
		}, 50 * time.Second},
	} {
		t.Run(tt.why, func(t *testing.T) {
			inTime(t, func(t *testing.T, w *world, f *Forwarder) {
				t.Helper()
				w.set(tt.answer)
				get(t, f, "a.")
				if tt.want > 0 {
					time.Sleep(tt.want - time.Millisecond)
					if get(t, f, "a."); w.count() != 1 {
						t.Error("it is asked for again too early")
					}
					time.Sleep(time.Millisecond)
				}
				if get(t, f, "a."); w.count() != 2 {
					t.Error("it is not asked for again")
				}
			})
		})
	}
}

// When the upstreams are silent an answer of before is used, for a day; whoever asks first
// waits 1.8 s for it, who asks in the next half minute not at all, and when they are back the
// new answer is.
func TestServeStale(t *testing.T) {
	inTime(t, func(t *testing.T, w *world, f *Forwarder) {
		t.Helper()
		w.set(positive(60))
		expect(t, f, "a.", "192.0.2.1 60")
		w.set(nil)
		time.Sleep(time.Hour)
		within := func(want string, wait time.Duration) {
			t.Helper()
			began := time.Now()
			expect(t, f, "a.", want)
			if took := time.Since(began); took != wait {
				t.Errorf("after %v, want %v", took, wait)
			}
		}
		within("192.0.2.1 30 stale", staleWait)
		time.Sleep(10 * time.Second)
		within("192.0.2.1 30 stale", 0)
		asked := w.count()
		time.Sleep(retryStale)
		w.set(func(q *dns.Msg) *dns.Msg { return give(q, "192.0.2.2", 60) })
		within("192.0.2.2 60", 0)
		if w.count() != asked+1 {
			t.Errorf("%d questions, want one more than %d", w.count(), asked)
		}
		w.set(servfailOnce)
		time.Sleep(maxStale + 61*time.Second)
		within("failed: every upstream resolver failed to resolve it", 0)
	})
}

func servfailOnce(q *dns.Msg) *dns.Msg { return servfail("", q) }

// A failure is known for a second, so that who asks at once again asks nobody.
func TestFailuresAreKept(t *testing.T) {
	inTime(t, func(t *testing.T, w *world, f *Forwarder) {
		t.Helper()
		w.set(servfailOnce)
		for range 10 {
			expect(t, f, "a.", "failed: every upstream resolver failed to resolve it")
		}
		if n := w.count(); n != 1 {
			t.Errorf("%d questions", n)
		}
		time.Sleep(keepFailure)
		w.set(positive(60))
		expect(t, f, "a.", "192.0.2.1 60")
		// And a stale answer is better than a new failure.
		w.set(servfailOnce)
		time.Sleep(2 * time.Minute)
		expect(t, f, "a.", "192.0.2.1 30 stale")
		// Other upstreams are asked although these have just failed.
		w.set(positive(9))
		f.SetUpstreams(ports("192.0.2.54:53"))
		expect(t, f, "a.", "192.0.2.1 9")
	})
}

// One silent upstream: a question fails after four seconds at the latest, a lost packet costs
// one second.
func TestPatience(t *testing.T) {
	inTime(t, func(t *testing.T, w *world, f *Forwarder) {
		t.Helper()
		began := time.Now()
		if got := get(t, f, "a."); !strings.HasPrefix(got, "failed") || time.Since(began) > patience {
			t.Errorf("%s after %v", got, time.Since(began))
		}
		var seen atomic.Bool
		w.set(func(q *dns.Msg) *dns.Msg {
			if !seen.Swap(true) {
				return nil
			}
			return give(q, "192.0.2.1", 60)
		})
		began = time.Now()
		expect(t, f, "b.", "192.0.2.1 60")
		if took := time.Since(began); took != udpWait {
			t.Errorf("after %v", took)
		}
	})
}

// Two silent ones before one that answers: 150 ms each, once.
func TestStagger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, alive := &world{}, &world{answer: positive(60)}
		f := NewForwarder(ForwarderConfig{Dialer: dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "192.0.2.3:53" {
				return alive.DialContext(ctx, network, addr)
			}
			return dead.DialContext(ctx, network, addr)
		})})
		f.SetUpstreams(ports("192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"))
		took := func(name string) time.Duration {
			began := time.Now()
			expect(t, f, name, "192.0.2.1 60")
			return time.Since(began)
		}
		if got := took("a."); got != 2*stagger {
			t.Errorf("the first after %v", got)
		}
		for i := range 100 {
			if got := took(fmt.Sprint("b", i, ".")); got != 0 {
				t.Errorf("question %d after %v", i, got)
			}
			time.Sleep(time.Second)
		}
		if n := dead.count(); n > 30 {
			t.Errorf("the dead ones were asked %d times in 100 s", n)
		}
		f.Close()
		dead.work.Wait()
		alive.work.Wait()
	})
}

// An upstream that fails costs no time: the next is asked at once.
func TestNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing, alive := &world{answer: servfailOnce}, &world{answer: positive(60)}
		f := NewForwarder(ForwarderConfig{Dialer: dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			switch addr {
			case "192.0.2.1:53":
				return failing.DialContext(ctx, network, addr)
			case "192.0.2.2:53":
				return nil, errors.New("unreachable")
			}
			return alive.DialContext(ctx, network, addr)
		})})
		f.SetUpstreams(ports("192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"))
		began := time.Now()
		expect(t, f, "a.", "192.0.2.1 60")
		if took := time.Since(began); took != 0 {
			t.Errorf("after %v", took)
		}
		f.Close()
		failing.work.Wait()
		alive.work.Wait()
	})
}

// Whatever is put in, the cache stays within its limit and gives back what was put in last.
func TestCacheBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 4000
		c := newCache(limit)
		now := time.Unix(0, 0)
		last := map[string]string{}
		for range rapid.IntRange(1, 60).Draw(t, "puts") {
			name := rapid.SampledFrom([]string{"a.", "b.", "c.", "d.", "e.", "f.", "g.", "h.", "i.", "j.", "k."}).Draw(t, "name")
			address := fmt.Sprint("192.0.2.", rapid.IntRange(1, 250).Draw(t, "address"))
			m := give(ask(name, dns.TypeA), address, 60)
			for range rapid.IntRange(0, 60).Draw(t, "more") {
				m.Answer = append(m.Answer, m.Answer[0])
			}
			c.put(lookup{name: name, qtype: dns.TypeA}, m, 0, now)
			last[name] = address
			if c.bytes > limit || len(c.entries) != c.used.Len() {
				t.Fatalf("%d bytes, %d entries, %d in order", c.bytes, len(c.entries), c.used.Len())
			}
			sum := 0
			for at := c.used.Front(); at != nil; at = at.Next() {
				sum += at.Value.(*entry).size()
			}
			if sum != c.bytes {
				t.Fatalf("%d bytes counted, %d there", c.bytes, sum)
			}
		}
		for name, want := range last {
			if res, ok := c.get(lookup{name: name, qtype: dns.TypeA}, now); ok && address(res.msg) != want {
				t.Fatalf("%s: %s, want %s", name, address(res.msg), want)
			}
		}
	})
}
