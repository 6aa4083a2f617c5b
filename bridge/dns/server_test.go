package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestServe(t *testing.T) {
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 60) })
	s := serve(t, resolver(t, ForwarderConfig{}, up.addr), here())
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			name  string
			qtype uint16
			want  string
		}{
			{"dB", dns.TypeA, "NOERROR aa 10.1.0.100 10.3.0.100"},
			{"db", dns.TypeMX, "NOERROR aa"},
			{"100.0.1.10.in-addr.arpa", dns.TypePTR, "NOERROR aa db.shop.shop-net."},
			{"9.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN aa"},
			{"_http._tcp.db", dns.TypeSRV, "NOERROR aa db.:80"},
			{"exAmple.org", dns.TypeA, "NOERROR 192.0.2.1"},
		} {
			m := ask(tt.name, tt.qtype)
			got := exchange(t, network, s.addr, m)
			text := dns.RcodeToString[got.Rcode]
			if got.Authoritative {
				text += " aa"
			}
			said := strings.Fields(say(Answer{Records: got.Answer}))[2:]
			sortAddresses(said)
			text = strings.Join(append([]string{text}, said...), " ")
			if text != tt.want {
				t.Errorf("%s %s by %s: %s, want %s", tt.name, dns.TypeToString[tt.qtype], network, text, tt.want)
			}
			if got.Question[0] != m.Question[0] || !got.RecursionAvailable || got.IsEdns0() != nil {
				t.Errorf("%s by %s: %v", tt.name, network, got)
			}
			for _, rr := range got.Answer {
				if rr.Header().Name != m.Question[0].Name {
					t.Errorf("%s by %s: the owner is %s", tt.name, network, rr.Header().Name)
				}
			}
		}
	}
	c := s.resolver.Counts()
	if c.Local != 10 || c.Forwarded != 1 || c.Cached != 1 {
		t.Errorf("counts: %+v", c)
	}
}

func sortAddresses(said []string) {
	if len(said) == 2 && said[0] > said[1] {
		said[0], said[1] = said[1], said[0]
	}
}

// What is no ordinary question, as bytes, and what comes back.
func TestMessages(t *testing.T) {
	r := resolver(t, ForwarderConfig{})
	s := serve(t, r, here())
	pack := func(change func(*dns.Msg)) []byte {
		m := ask("db", dns.TypeA)
		m.Id = 77
		change(m)
		wire, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return wire
	}
	edns := func(change func(*dns.OPT)) []byte {
		return pack(func(m *dns.Msg) { m.SetEdns0(1232, true); change(m.IsEdns0()) })
	}
	class := func(name string, qtype, qclass uint16) []byte {
		return pack(func(m *dns.Msg) { m.Question[0] = dns.Question{Name: name, Qtype: qtype, Qclass: qclass} })
	}
	whole := pack(func(*dns.Msg) {})
	counts := func(at int, n byte) []byte {
		wire := append([]byte(nil), whole...)
		wire[at] = n
		return wire
	}
	for _, tt := range []struct {
		why  string
		wire []byte
		want string // "" for no answer
	}{
		{"an ordinary question", whole, "NOERROR"},
		{"nothing", nil, ""},
		{"half a header", whole[:11], ""},
		{"a header alone", whole[:12], "FORMERR"},
		{"half a name", whole[:15], "FORMERR"},
		{"an answer", pack(func(m *dns.Msg) { m.Response = true }), ""},
		{"an answer of another opcode", pack(func(m *dns.Msg) { m.Response = true; m.Opcode = dns.OpcodeUpdate }), ""},
		{"NOTIFY", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), "NOTIMP"},
		{"UPDATE", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		{"an opcode that nobody knows", pack(func(m *dns.Msg) { m.Opcode = 15 }), "NOTIMP"},
		{"no question", pack(func(m *dns.Msg) { m.Question = nil }), "FORMERR"},
		{"two questions", pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR"},
		{"one question, as two", counts(5, 2), "FORMERR"},
		{"records that are not there", counts(11, 1), "FORMERR"},
		{"a name that points at itself", append(whole[:12:12], 0xc0, 12, 0, 1, 0, 1), "FORMERR"},
		{"bytes beyond the end", append(slices.Clip(whole), 1, 2, 3), "NOERROR"},
		{"version.bind", class("version.bind.", dns.TypeTXT, dns.ClassCHAOS), "REFUSED"},
		{"a CH HINFO", class("db.", dns.TypeHINFO, dns.ClassCHAOS), "REFUSED"},
		{"class ANY", class("db.", dns.TypeA, dns.ClassANY), "REFUSED"},
		{"AXFR", class("db.", dns.TypeAXFR, dns.ClassINET), "REFUSED"},
		{"type OPT", class("db.", dns.TypeOPT, dns.ClassINET), "FORMERR"},
		{"ANY of ours", class("db.", dns.TypeANY, dns.ClassINET), "NOERROR RFC8482"},
		{"ANY of others", class("example.org.", dns.TypeANY, dns.ClassINET), "NOERROR RFC8482"},
		{"EDNS", edns(func(*dns.OPT) {}), "NOERROR edns do"},
		{"EDNS of the future", edns(func(o *dns.OPT) { o.SetVersion(1) }), "BADVERS edns do"},
		{"two OPT", pack(func(m *dns.Msg) { m.SetEdns0(1232, false); m.SetEdns0(1232, false) }), "FORMERR"},
		{"an OPT with a name", edns(func(o *dns.OPT) { o.Hdr.Name = "db." }), "FORMERR"},
		{"a name of others without RD", pack(func(m *dns.Msg) { m.Question[0].Name = "example.org."; m.RecursionDesired = false }), "REFUSED"},
		{"one of ours without RD", pack(func(m *dns.Msg) { m.RecursionDesired = false }), "NOERROR"},
		{"a name of others without upstreams", class("example.org.", dns.TypeA, dns.ClassINET), "SERVFAIL"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			conn, err := net.Dial("udp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(tt.wire); err != nil {
				t.Fatal(err)
			}
			if tt.want == "" { // then the next question is answered first
				if _, err := conn.Write(whole); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 4096)
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			m := new(dns.Msg)
			if err := m.Unpack(buf[:n]); err != nil {
				t.Fatal(err)
			}
			if got, want := shape(m), strings.TrimSpace(tt.want); got != want && (want != "" || got != "NOERROR") || m.Id != 77 || !m.Response {
				t.Errorf("%s, want %q: %v", got, tt.want, m)
			}
		})
	}
	if c := r.Counts(); c.Panics != 0 || c.Dropped != 4 {
		t.Errorf("counts: %+v", c)
	}
}

func shape(m *dns.Msg) string {
	rcode := m.Rcode
	out := ""
	if opt := m.IsEdns0(); opt != nil {
		out = " edns"
		if opt.Do() {
			out += " do"
		}
	}
	for _, rr := range m.Answer {
		if hinfo, ok := rr.(*dns.HINFO); ok {
			out = " " + hinfo.Cpu + out
		}
	}
	if rcode == dns.RcodeBadVers {
		return "BADVERS" + out
	}
	return dns.RcodeToString[rcode] + out
}

// crowd is one service with n ready endpoints.
func crowd(n int) Names {
	names := Names{Networks: []Network{{ID: "n-shop", Name: "shop-net"}}, Services: []Service{{Name: "many", Mode: DNSRR, Ports: []Port{{Name: "http", Number: 80, Proto: mesh.TCP}}}}}
	for i := range n {
		names.Endpoints = append(names.Endpoints, Endpoint{
			Name: fmt.Sprint("many.", i), Service: "many", Ready: true,
			Addrs: []Addr{{"n-shop", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}},
		})
	}
	return names
}

func TestTruncation(t *testing.T) {
	r := resolver(t, ForwarderConfig{})
	r.SetZone(NewZone(crowd(600)))
	s := serve(t, r, here())
	for _, tt := range []struct {
		network string
		size    uint16 // offered; 0: no EDNS
		limit   int
		cut     bool
	}{
		{"udp", 0, 512, true},
		{"udp", 100, 512, true}, // RFC 6891 6.2.3: less than 512 is 512
		{"udp", 1232, 1232, true},
		{"udp", 65535, 4096, true},
		{"tcp", 0, 65535, false},
		{"tcp", 1232, 65535, false},
	} {
		m := ask("many", dns.TypeA)
		if tt.size > 0 {
			m.SetEdns0(tt.size, false)
		}
		c := dns.Client{Net: tt.network, UDPSize: 8192, Timeout: 10 * time.Second}
		got, _, err := c.Exchange(m, s.addr)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		got.Compress = true
		if n := got.Len(); got.Truncated != tt.cut || n > tt.limit || tt.cut && n < tt.limit-40 || !tt.cut && len(got.Answer) != 600 {
			t.Errorf("%+v: TC %v, %d bytes, %d records", tt, got.Truncated, n, len(got.Answer))
		}
		if (got.IsEdns0() != nil) != (tt.size > 0) {
			t.Errorf("%+v: OPT %v", tt, got.IsEdns0())
		}
	}
	// More than a message can hold: by TCP as many as fit, and no client is sent elsewhere.
	r.SetZone(NewZone(crowd(5000)))
	got := exchange(t, "tcp", s.addr, ask("many", dns.TypeA))
	if got.Truncated || len(got.Answer) < 4090 || len(got.Answer) > 4096 {
		t.Errorf("TC %v, %d of 5,000 records", got.Truncated, len(got.Answer))
	}
	// Addresses beside the answer may go without TC, since nobody asked for them.
	r.SetZone(NewZone(crowd(14)))
	got = exchange(t, "udp", s.addr, ask("_http._tcp.many", dns.TypeSRV))
	if got.Truncated || len(got.Answer) != 14 || len(got.Extra) != 0 {
		t.Errorf("SRV: TC %v, %d records, %d beside", got.Truncated, len(got.Answer), len(got.Extra))
	}
	got = exchange(t, "tcp", s.addr, ask("_http._tcp.many", dns.TypeSRV))
	if len(got.Answer) != 14 || len(got.Extra) != 14 {
		t.Errorf("SRV by TCP: %d records, %d beside", len(got.Answer), len(got.Extra))
	}
	if c := r.Counts(); c.Truncated != 4 {
		t.Errorf("counts: %+v", c)
	}
}

// An asker's networks and the names change while it asks.
func TestSetAskerAndZone(t *testing.T) {
	up := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 60) })
	r := resolver(t, ForwarderConfig{}, up.addr)
	s := serve(t, r, Asker{Networks: []mesh.NetworkID{"n-in"}})
	expect := func(name, want string) {
		t.Helper()
		if got := address(exchange(t, "udp", s.addr, ask(name, dns.TypeA))); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	expect("plain", "SERVFAIL")
	expect("example.org", "SERVFAIL")
	if n := up.udp.Load() + up.tcp.Load(); n != 0 {
		t.Errorf("an endpoint on an internal network caused %d questions outside", n)
	}
	s.SetAsker(Asker{Networks: []mesh.NetworkID{"n-in", "n-all"}})
	expect("plain", "10.3.0.9")
	expect("example.org", "192.0.2.1")
	s.SetAsker(Asker{Networks: []mesh.NetworkID{"n-in"}}) // what is cached is not for it either
	expect("example.org", "SERVFAIL")
	r.SetZone(NewZone(Names{}))
	expect("lone", "SERVFAIL")
	s.SetAsker(Asker{Everything: true, LocalOnly: true})
	expect("example.org", "REFUSED")
	s.SetAsker(Asker{Networks: []mesh.NetworkID{"n-all"}, KeepShort: true})
	expect("short", "NOERROR")
	if c := r.Counts(); c.Forwarded != 1 || c.Refused != 5 {
		t.Errorf("counts: %+v", c)
	}
}

// Who asks again for a second loses nothing while the server is replaced.
func TestRestart(t *testing.T) {
	r := resolver(t, ForwarderConfig{})
	s := serve(t, r, here())
	s.stop()
	answered := make(chan bool, 1)
	go func() {
		c := dns.Client{Timeout: 50 * time.Millisecond}
		for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got, _, err := c.Exchange(ask("db", dns.TypeA), s.addr); err == nil && len(got.Answer) == 2 {
				answered <- true
				return
			}
		}
		answered <- false
	}()
	time.Sleep(100 * time.Millisecond)
	serveAt(t, r, here(), s.addr)
	if !<-answered {
		t.Error("not answered within a second")
	}
}
