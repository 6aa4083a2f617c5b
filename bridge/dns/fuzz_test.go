package dns

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Whatever bytes come: no panic, at most one answer, within its room, and one that is an
// answer to them.
func FuzzMessage(f *testing.F) {
	seed := func(change func(*dns.Msg)) {
		m := ask("db", dns.TypeA)
		change(m)
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	seed(func(*dns.Msg) {})
	seed(func(m *dns.Msg) { m.SetEdns0(1232, true) })
	seed(func(m *dns.Msg) { m.Question[0] = dns.Question{Name: "_http._tcp.WEB.", Qtype: dns.TypeSRV, Qclass: 1} })
	seed(func(m *dns.Msg) {
		m.Question[0] = dns.Question{Name: "11.0.1.10.in-addr.arpa.", Qtype: dns.TypePTR, Qclass: 1}
	})
	seed(func(m *dns.Msg) { m.Question[0].Name = "example.org." })
	seed(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) })
	seed(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
	seed(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate })
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	forwarder := NewForwarder(ForwarderConfig{Dialer: dialer(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody") })})
	f.Cleanup(forwarder.Close)
	r := NewResolver(forwarder)
	r.SetZone(NewZone(town()))
	s := NewServer(r, here())
	f.Fuzz(func(t *testing.T, wire []byte) {
		q, m, wait := r.answer(s.asker.Load(), wire) // not by handle: a panic is to be seen
		if wait != nil {
			m = wait(t.Context())
		}
		if m == nil {
			return
		}
		s.deliver(q, m, asOffered, func(got []byte) {
			if len(got) > q.room() {
				t.Fatalf("%d bytes where %d were offered", len(got), q.room())
			}
			back := new(dns.Msg)
			if err := back.Unpack(got); err != nil {
				t.Fatalf("unreadable: %v: %x", err, got)
			}
			if !back.Response || got[0] != wire[0] || got[1] != wire[1] || wire[2]&0x80 != 0 {
				t.Fatalf("not an answer to %x: %x", wire, got)
			}
			if q != nil && back.Question[0] != q.question {
				t.Fatalf("another question: %v", back)
			}
		})
	})
}

// Whatever an upstream sends: no panic, and what is taken from it answers what was asked and
// can be kept and given on.
func FuzzUpstream(f *testing.F) {
	asked := ask("example.org", dns.TypeA)
	asked.Id = 7
	asked.SetEdns0(1232, true)
	for _, m := range []*dns.Msg{give(asked, "192.0.2.1", 60), negative(dns.RcodeNameError, 60, 60)(asked), new(dns.Msg).SetRcode(asked, dns.RcodeFormatError)} {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
		f.Add(wire[:len(wire)-5])
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		m, err := accept(wire, asked)
		if err != nil || m.Truncated {
			return
		}
		if m.Id != 7 || len(m.Question) > 0 && !same(m.Question[0], asked.Question[0]) {
			t.Fatalf("%v", m)
		}
		clean(m)
		c := newCache(1 << 20)
		k := lookup{name: "example.org.", qtype: dns.TypeA}
		now := time.Unix(1000, 0)
		c.put(k, m, 0, now)
		res, ok := c.get(k, now.Add(time.Second))
		if !ok {
			return
		}
		q := &query{msg: ask("EXAMPLE.org", dns.TypeA)}
		q.question = q.msg.Question[0]
		if packed, err := pack(q.from(res), 512); err == nil && len(packed) > 512 {
			t.Fatalf("%d bytes", len(packed))
		}
	})
}
