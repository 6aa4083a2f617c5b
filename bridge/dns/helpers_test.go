package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// here is the asker that most tests are: an endpoint of stack shop.
func here() Asker { return Asker{Networks: []mesh.NetworkID{"n-shop", "n-all"}, Stack: "shop"} }

// served is a Server on real sockets.
type served struct {
	*Server
	addr string
	stop func()
}

// serve starts a server for a on a port of its own.
func serve(tb testing.TB, r *Resolver, a Asker) *served {
	tb.Helper()
	return serveAt(tb, r, a, "127.0.0.1:0")
}

func serveAt(tb testing.TB, r *Resolver, a Asker, addr string) *served {
	tb.Helper()
	packets, listener := sockets(tb, addr)
	s := &served{Server: NewServer(r, a), addr: listener.Addr().String()}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, packets, listener) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
	tb.Cleanup(s.stop)
	return s
}

// sockets opens both transports on one port.
func sockets(tb testing.TB, addr string) (net.PacketConn, net.Listener) {
	tb.Helper()
	var err error
	for range 20 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", addr); err != nil {
			continue
		}
		var packets net.PacketConn
		if packets, err = net.ListenPacket("udp", listener.Addr().String()); err == nil {
			return packets, listener
		}
		listener.Close()
	}
	tb.Fatal(err)
	return nil, nil
}

// resolver makes one with town's names and the upstreams.
func resolver(tb testing.TB, cfg ForwarderConfig, upstreams ...string) *Resolver {
	tb.Helper()
	if cfg.Dialer == nil {
		cfg.Dialer = &net.Dialer{}
	}
	f := NewForwarder(cfg)
	tb.Cleanup(f.Close)
	f.SetUpstreams(ports(upstreams...))
	r := NewResolver(f)
	r.SetZone(NewZone(town()))
	return r
}

func ports(texts ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, text := range texts {
		out = append(out, netip.MustParseAddrPort(text))
	}
	return out
}

func ask(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	return m
}

// exchange sends m as a client would that does not retry.
func exchange(tb testing.TB, network, addr string, m *dns.Msg) *dns.Msg {
	tb.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 8192}
	got, _, err := c.Exchange(m, addr)
	if err != nil {
		tb.Fatalf("%s by %s: %v", m.Question[0].String(), network, err)
	}
	return got
}

// fake is an upstream that a test makes. It answers by UDP and TCP on one port.
type fake struct {
	addr string
	udp  atomic.Int64 // questions that came
	tcp  atomic.Int64
	last atomic.Pointer[dns.Msg]
}

// upstreamOf starts an upstream that answers with answer; nil: it is silent.
func upstreamOf(tb testing.TB, answer func(network string, q *dns.Msg) *dns.Msg) *fake {
	tb.Helper()
	packets, listener := sockets(tb, "127.0.0.1:0")
	u := &fake{addr: listener.Addr().String()}
	handler := func(network string, n *atomic.Int64) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			n.Add(1)
			u.last.Store(q)
			if m := answer(network, q); m != nil {
				w.WriteMsg(m)
			}
		})
	}
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler("udp", &u.udp)}, {Listener: listener, Handler: handler("tcp", &u.tcp)}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		<-started
		tb.Cleanup(func() {
			s.Shutdown()
			if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
				tb.Error(err)
			}
		})
	}
	return u
}

// give is an ordinary answer with one address.
func give(q *dns.Msg, address string, ttl uint32) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl},
			A:   ip(address).AsSlice(),
		}}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	return m
}

// address is the first A record's.
func address(m *dns.Msg) string {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	return dns.RcodeToString[m.Rcode]
}

// eventually waits for what comes by itself.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not so in 10 s: %s", what)
		}
	}
}
