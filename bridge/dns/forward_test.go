package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func servfail(_ string, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	return m.SetRcode(q, dns.RcodeServerFailure)
}

func silence(string, *dns.Msg) *dns.Msg { return nil }

// unused is a port where nobody listens.
func unused(tb testing.TB) string {
	tb.Helper()
	packets, listener := sockets(tb, "127.0.0.1:0")
	defer packets.Close()
	defer listener.Close()
	return listener.Addr().String()
}

// Each kind of upstream, alone and before one that answers.
func TestUpstreams(t *testing.T) {
	wrong := func(change func(*dns.Msg)) func(string, *dns.Msg) *dns.Msg {
		return func(_ string, q *dns.Msg) *dns.Msg {
			m := give(q, "203.0.113.66", 60)
			change(m)
			return m
		}
	}
	good := func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 60) }
	for _, tt := range []struct {
		why    string
		answer func(string, *dns.Msg) *dns.Msg
		alone  string
		before string // before a good one
	}{
		{"good", good, "192.0.2.1", "192.0.2.1"},
		{"silent", silence, "", "192.0.2.2"},
		{"failing", servfail, "SERVFAIL", "192.0.2.2"},
		{"refusing", func(_ string, q *dns.Msg) *dns.Msg { m := new(dns.Msg); return m.SetRcode(q, dns.RcodeRefused) }, "SERVFAIL", "192.0.2.2"},
		{"wrong ID", wrong(func(m *dns.Msg) { m.Id++ }), "", "192.0.2.2"},
		{"wrong name", wrong(func(m *dns.Msg) { m.Question[0].Name = "evil.example." }), "", "192.0.2.2"},
		{"wrong type", wrong(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }), "", "192.0.2.2"},
		{"a question in return", wrong(func(m *dns.Msg) { m.Response = false }), "", "192.0.2.2"},
		{"cut by UDP", func(network string, q *dns.Msg) *dns.Msg {
			m := good(network, q)
			if network == "udp" {
				m.Truncated, m.Answer = true, nil
			}
			return m
		}, "192.0.2.1", "192.0.2.1"},
		{"silent by UDP", func(network string, q *dns.Msg) *dns.Msg {
			if network == "udp" {
				return nil
			}
			return good(network, q)
		}, "192.0.2.1", "192.0.2.2"},
		{"without EDNS", func(network string, q *dns.Msg) *dns.Msg {
			if q.IsEdns0() != nil {
				m := new(dns.Msg)
				return m.SetRcode(q, dns.RcodeFormatError)
			}
			return good(network, q)
		}, "192.0.2.1", "192.0.2.1"},
		{"no such name", func(_ string, q *dns.Msg) *dns.Msg { m := new(dns.Msg); return m.SetRcode(q, dns.RcodeNameError) }, "NXDOMAIN", "NXDOMAIN"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			t.Parallel()
			up := upstreamOf(t, tt.answer)
			second := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.2", 60) })
			if tt.alone != "" { // the others take four seconds
				s := serve(t, resolver(t, ForwarderConfig{}, up.addr), here())
				if got := address(exchange(t, "udp", s.addr, ask("Example.org", dns.TypeA))); got != tt.alone {
					t.Errorf("alone: %s, want %s", got, tt.alone)
				}
			}
			s := serve(t, resolver(t, ForwarderConfig{}, up.addr, second.addr), here())
			m := ask("Example.org", dns.TypeA)
			m.AuthenticatedData = true
			got := exchange(t, "udp", s.addr, m)
			if address(got) != tt.before {
				t.Errorf("before a good one: %s, want %s", address(got), tt.before)
			}
			if got.Id != m.Id || got.Question[0] != m.Question[0] || got.AuthenticatedData {
				t.Errorf("%v", got)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := serve(t, resolver(t, ForwarderConfig{}, unused(t), unused(t)), here())
		began := time.Now()
		m := ask("example.org", dns.TypeA)
		m.SetEdns0(1232, false)
		got := exchange(t, "udp", s.addr, m)
		if got.Rcode != dns.RcodeServerFailure || time.Since(began) > time.Second {
			t.Errorf("after %v: %v", time.Since(began), got)
		}
		if opt := got.IsEdns0(); len(opt.Option) != 1 || opt.Option[0].(*dns.EDNS0_EDE).InfoCode != dns.ExtendedErrorCodeNetworkError {
			t.Errorf("no reason: %v", got)
		}
	})
	t.Run("TCP only", func(t *testing.T) {
		packets, listener := sockets(t, "127.0.0.1:0")
		packets.Close()
		server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(good("tcp", q)) })}
		done := make(chan error, 1)
		go func() { done <- server.ActivateAndServe() }()
		defer func() { listener.Close(); <-done }()
		s := serve(t, resolver(t, ForwarderConfig{}, listener.Addr().String()), here())
		if got := address(exchange(t, "udp", s.addr, ask("example.org", dns.TypeA))); got != "192.0.2.1" {
			t.Error(got)
		}
	})
}

// Who answers by UDP many times wrong is asked by TCP, where nobody else can answer.
func TestForgedFlood(t *testing.T) {
	packets, listener := sockets(t, "127.0.0.1:0")
	var byTCP atomic.Int64
	server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		byTCP.Add(1)
		w.WriteMsg(give(q, "192.0.2.1", 60))
	})}
	var work sync.WaitGroup
	work.Go(func() { server.ActivateAndServe() })
	work.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			q.Unpack(buf[:n])
			id := q.Id
			for i := range 200 {
				q.Id = id + 1 + uint16(i)
				wire, _ := give(q, "203.0.113.66", 60).Pack()
				packets.WriteTo(wire, from)
			}
		}
	})
	defer work.Wait()
	defer listener.Close()
	defer packets.Close()
	r := resolver(t, ForwarderConfig{}, listener.Addr().String())
	s := serve(t, r, here())
	if got := address(exchange(t, "udp", s.addr, ask("example.org", dns.TypeA))); got != "192.0.2.1" || byTCP.Load() != 1 {
		t.Errorf("%s, %d by TCP", got, byTCP.Load())
	}
	if c := r.Counts(); c.Forged != maxForged {
		t.Errorf("counts: %+v", c)
	}
}

// IDs and source ports are drawn anew for each question.
func TestEntropy(t *testing.T) {
	ids, sources := map[uint16]int{}, map[string]int{}
	var mu sync.Mutex
	f := NewForwarder(ForwarderConfig{Dialer: dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			mu.Lock()
			sources[conn.LocalAddr().String()]++
			mu.Unlock()
		}
		return conn, err
	})})
	defer f.Close()
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		mu.Lock()
		ids[q.Id]++
		mu.Unlock()
		return give(q, "192.0.2.1", 0)
	})
	f.SetUpstreams(ports(up.addr))
	for range 300 {
		if got := f.ask(t.Context(), lookup{name: "example.org.", qtype: dns.TypeA}); got.msg == nil {
			t.Fatal(got.text)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < 290 || len(sources) < 280 { // by chance a few are equal
		t.Errorf("%d IDs and %d sources for 300 questions", len(ids), len(sources))
	}
	port := slices.Sorted(func(yield func(uint16) bool) {
		for s := range sources {
			yield(netip.MustParseAddrPort(s).Port())
		}
	})
	if port[len(port)-1]-port[0] < 5000 {
		t.Errorf("ports from %d to %d", port[0], port[len(port)-1])
	}
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

func (d dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d(ctx, network, addr)
}

// Many who ask the same at once cause one question, and each gets the answer in its own case
// and with its own ID.
func TestJoin(t *testing.T) {
	release := make(chan struct{})
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		<-release
		return give(q, "192.0.2.1", 60)
	})
	r := resolver(t, ForwarderConfig{}, up.addr)
	one, other := serve(t, r, here()), serve(t, r, here())
	var work sync.WaitGroup
	for i := range 50 {
		work.Go(func() {
			m := ask([]string{"example.org", "EXAMPLE.org", "eXample.ORG"}[i%3], dns.TypeA)
			got := exchange(t, "udp", []*served{one, other}[i%2].addr, m)
			if got.Id != m.Id || address(got) != "192.0.2.1" || got.Answer[0].Header().Name != m.Question[0].Name {
				t.Errorf("%v", got)
			}
		})
	}
	eventually(t, "49 wait for the first", func() bool { return r.Counts().Joined == 49 })
	close(release)
	work.Wait()
	if n := up.udp.Load(); n != 1 {
		t.Errorf("%d questions", n)
	}
}

// Neither one asker nor all together have more under way than they may, and one that is at its
// limit still gets local names at once.
func TestForwardLimits(t *testing.T) {
	up := upstreamOf(t, silence)
	r := resolver(t, ForwarderConfig{Limits: Limits{AskerForwards: 10, Forwards: 15}}, up.addr)
	one, other := serve(t, r, here()), serve(t, r, here())
	flood := func(s *served, word string) (failed int) {
		conn := dialTCP(t, s.addr)
		var questions []*dns.Msg
		for i := range 30 {
			questions = append(questions, ask(fmt.Sprint(word, i, ".example.org"), dns.TypeA))
		}
		questions = append(questions, ask("db", dns.TypeA))
		if _, err := conn.Write(framed(t, questions...)); err != nil {
			t.Fatal(err)
		}
		for {
			got := readFramed(t, conn)
			if len(got.Answer) == 2 {
				return failed
			}
			if got.Rcode != dns.RcodeServerFailure {
				t.Fatalf("%v", got)
			}
			failed++
		}
	}
	if n := flood(one, "a"); n != 20 {
		t.Errorf("one asker: %d of 30 failed at once, want 20", n)
	}
	if n := flood(other, "b"); n < 20 {
		t.Errorf("another: %d of 30 failed at once, want 20 to 25", n)
	}
	eventually(t, "five more had a place with their server but not with all", func() bool { return r.Counts().Overloaded == 45 })
}

// What concerns validation goes through and is kept apart; a client subnet does not.
func TestBits(t *testing.T) {
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		m := give(q, "192.0.2.1", 60)
		m.AuthenticatedData = true
		if q.IsEdns0().Do() {
			m.Answer = append(m.Answer, &dns.RRSIG{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: 60}, TypeCovered: dns.TypeA, SignerName: "org.", Signature: "AAAA"})
		}
		return m
	})
	s := serve(t, resolver(t, ForwarderConfig{}, up.addr), here())
	for _, tt := range []struct {
		why        string
		do, ad, cd bool
		records    int
		wantAD     bool
		asked      int64
	}{
		{"plain", false, false, false, 1, false, 1},
		{"AD from the cache", false, true, false, 1, true, 1},
		{"DO is another question", true, false, false, 2, true, 2},
		{"CD is another", false, false, true, 1, false, 3},
		{"both", true, false, true, 2, true, 4},
		{"both from the cache", true, true, true, 2, true, 4},
	} {
		m := ask("example.org", dns.TypeA)
		m.AuthenticatedData, m.CheckingDisabled = tt.ad, tt.cd
		m.SetEdns0(1232, tt.do)
		subnet := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IP{198, 51, 100, 0}}
		m.IsEdns0().Option = append(m.IsEdns0().Option, subnet, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
		got := exchange(t, "udp", s.addr, m)
		if len(got.Answer) != tt.records || got.AuthenticatedData != tt.wantAD || got.CheckingDisabled != tt.cd || got.IsEdns0().Do() != tt.do {
			t.Errorf("%s: %v", tt.why, got)
		}
		if n := up.udp.Load(); n != tt.asked {
			t.Errorf("%s: %d questions to the upstream, want %d", tt.why, n, tt.asked)
		}
		last := up.last.Load()
		if tt.why == "both" && (!last.CheckingDisabled || !last.IsEdns0().Do()) {
			t.Errorf("%s: asked %v", tt.why, last)
		}
		for _, o := range last.IsEdns0().Option {
			if o.Option() != looping {
				t.Errorf("%s: the upstream got %v", tt.why, o)
			}
		}
	}
}

// An upstream that is ourselves is refused where that can be known, and found out where not.
func TestLoop(t *testing.T) {
	own := netip.MustParseAddrPort("192.0.2.53:53")
	f := NewForwarder(ForwarderConfig{Own: []netip.AddrPort{own}})
	defer f.Close()
	if got := f.SetUpstreams([]netip.AddrPort{own, netip.MustParseAddrPort("[::ffff:192.0.2.53]:53")}); len(got) != 2 || len(*f.set.Load()) != 0 {
		t.Errorf("%v is no loop", got)
	}
	byDefault := NewForwarder(ForwarderConfig{})
	defer byDefault.Close()
	if got := byDefault.SetUpstreams(ports("127.0.0.11:53", "127.0.0.53:53")); len(got) != 1 || len(*byDefault.set.Load()) != 1 {
		t.Errorf("%v is no loop", got)
	}

	r := resolver(t, ForwarderConfig{})
	s := serve(t, r, here())
	// A forwarder of somebody else's between us and us, which passes on what it does not know.
	through := upstreamOf(t, func(network string, q *dns.Msg) *dns.Msg {
		m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, s.addr)
		if err != nil {
			return nil
		}
		return m
	})
	good := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 60) })
	r.forward.SetUpstreams(ports(through.addr, s.addr, good.addr))
	if got := address(exchange(t, "udp", s.addr, ask("example.org", dns.TypeA))); got != "192.0.2.1" {
		t.Error(got)
	}
	if c := r.Counts(); c.Loops != 2 || c.Forwarded != 1 {
		t.Errorf("counts: %+v", c)
	}
	if got := address(exchange(t, "udp", s.addr, ask("example.net", dns.TypeA))); got != "192.0.2.1" || through.udp.Load() != 1 {
		t.Errorf("%s, and the loop was asked %d times", got, through.udp.Load())
	}
	// One that strips options: questions come back as strangers' and join the first.
	r.forward.SetUpstreams(ports(upstreamOf(t, func(network string, q *dns.Msg) *dns.Msg {
		bare := ask(q.Question[0].Name, q.Question[0].Qtype)
		m, _, err := (&dns.Client{Net: network, Timeout: 6 * time.Second}).Exchange(bare, s.addr)
		if err != nil {
			return nil
		}
		return m.SetReply(q)
	}).addr))
	before := r.Counts()
	got := exchange(t, "udp", s.addr, ask("example.com", dns.TypeA))
	if after := r.Counts(); got.Rcode != dns.RcodeServerFailure || after.Queries-before.Queries > 6 {
		t.Errorf("%d questions for one: %v", after.Queries-before.Queries, got)
	}
}

// The list is replaced while questions are asked: what is asked afterwards goes to the new
// ones, although the old one's answer is cached or still awaited.
func TestSetUpstreams(t *testing.T) {
	release := make(chan struct{})
	old := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "slow.example.org." {
			<-release
		}
		return give(q, "192.0.2.1", 60)
	})
	defer close(release)
	next := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.2", 60) })
	r := resolver(t, ForwarderConfig{}, old.addr)
	s := serve(t, r, here())
	get := func(name string) string {
		return address(exchange(t, "udp", s.addr, ask(name, dns.TypeA)))
	}
	var work sync.WaitGroup
	defer work.Wait()
	if got := get("example.org"); got != "192.0.2.1" {
		t.Error(got)
	}
	work.Go(func() { get("slow.example.org") })
	eventually(t, "the slow one is under way", func() bool { return r.Counts().Forwarded == 2 })
	r.forward.SetUpstreams(ports(next.addr))
	for _, name := range []string{"example.org", "slow.example.org"} {
		if got := get(name); got != "192.0.2.2" {
			t.Errorf("%s: %s", name, got)
		}
	}
	r.forward.SetUpstreams(ports(next.addr)) // the same: nothing is thrown away
	if get("example.org"); next.udp.Load() != 2 {
		t.Errorf("%d questions", next.udp.Load())
	}
}

// After its first failure a dead first upstream costs nobody anything, and when it is back it
// is asked first again.
func TestDeadFirst(t *testing.T) {
	var dead atomic.Bool
	dead.Store(true)
	first := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg {
		if dead.Load() {
			return nil
		}
		return give(q, "192.0.2.1", 60)
	})
	second := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.2", 60) })
	r := resolver(t, ForwarderConfig{}, first.addr, second.addr)
	s := serve(t, r, here())
	get := func(i int) string {
		return address(exchange(t, "udp", s.addr, ask(fmt.Sprint("n", i, ".example.org"), dns.TypeA)))
	}
	get(0)
	began := time.Now()
	for i := range 200 {
		if got := get(i + 1); got != "192.0.2.2" {
			t.Fatal(got)
		}
	}
	if took, n := time.Since(began), first.udp.Load(); n > 2 {
		t.Errorf("the dead one was asked %d times for 201 questions, which took %v", n, took)
	}
	dead.Store(false)
	for _, u := range *r.forward.set.Load() {
		if u.until.Load() != 0 {
			u.until.Store(1) // its time is over
		}
	}
	get(1000)
	for i := 1001; get(i) != "192.0.2.1"; i++ {
		if i == 1200 {
			t.Fatal("the first is not asked again")
		}
		time.Sleep(time.Millisecond)
	}
}

// An upstream that answers nonsense by TCP makes one question fail, and nothing else.
func TestHostileTCP(t *testing.T) {
	for _, tt := range []struct {
		why  string
		wire func(q []byte) []byte
	}{
		{"nothing", func([]byte) []byte { return nil }},
		{"half a length", func([]byte) []byte { return []byte{1} }},
		{"a long half", func([]byte) []byte { return append([]byte{0xff, 0xff}, make([]byte, 100)...) }},
		{"no header", func([]byte) []byte { return []byte{0, 1, 7} }},
		{"zeros", func([]byte) []byte { return make([]byte, 200) }},
		{"the question", func(q []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) }},
		{"an answer with less than it counts", func(q []byte) []byte {
			q = slices.Clone(q)
			q[2] |= 0x80
			q[11] = 9
			return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
		}},
		{"an answer that is an OPT", func(q []byte) []byte {
			q = slices.Clone(q)
			q[2] |= 0x80
			q[7], q[11] = 1, 0
			return append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
		}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			packets, listener := sockets(t, "127.0.0.1:0")
			packets.Close()
			var work sync.WaitGroup
			work.Go(func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					buf := make([]byte, 4096)
					n, _ := conn.Read(buf)
					conn.Write(tt.wire(buf[2:max(2, n)]))
					conn.Close()
				}
			})
			defer work.Wait()
			defer listener.Close()
			s := serve(t, resolver(t, ForwarderConfig{}, listener.Addr().String()), here())
			if got := exchange(t, "udp", s.addr, ask("example.org", dns.TypeA)); got.Rcode != dns.RcodeServerFailure {
				t.Errorf("%v", got)
			}
		})
	}
}
