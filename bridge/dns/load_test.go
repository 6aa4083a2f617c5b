package dns

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

// Local answers take as long under a load of names whose upstreams are dead as under one of
// names whose upstreams are not, and none is lost.
func TestLocalBesideDead(t *testing.T) {
	dead := upstreamOf(t, silence)
	alive := upstreamOf(t, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 60) })
	under := func(up *fake) time.Duration {
		r := resolver(t, ForwarderConfig{Limits: Limits{AskerForwards: 50}}, up.addr)
		s := serve(t, r, here())
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() {
			conn, err := net.Dial("udp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for i := 0; ctx.Err() == nil; i++ { // 1,000 a second, answers unread
				wire, _ := ask(fmt.Sprint("n", i, ".example.org"), dns.TypeA).Pack()
				conn.Write(wire)
				time.Sleep(time.Millisecond)
			}
		})
		eventually(t, "the asker is at its limit, or was served", func() bool {
			c := r.Counts()
			return c.Overloaded > 0 || c.Forwarded >= 100
		})
		took := p99(t, s.addr) // fails where one is lost
		cancel()
		work.Wait()
		if c := r.Counts(); up == dead && c.Overloaded == 0 {
			t.Errorf("no load: %+v", c)
		}
		return took
	}
	for try := range 5 { // others use this machine too
		with, without := under(dead), under(alive)
		t.Logf("p99 %v beside dead upstreams, %v beside ones that answer", with, without)
		if with < 3*without+slack {
			return
		}
		if try == 4 {
			t.Error("dead upstreams make local answers slow")
		}
	}
}

// city is n services with two endpoints each.
func city(n int) Names {
	names := Names{TTL: DefaultTTL, Networks: []Network{{ID: "n-shop", Name: "shop-net"}}}
	for i := range n {
		vip := mesh.NetworkID("n-shop")
		name := fmt.Sprint("service-", i)
		names.Services = append(names.Services, Service{Name: name, Stack: "shop", VIPs: []Addr{{vip, ip(fmt.Sprintf("10.1.%d.%d", i/250, i%250))}}})
		for j := range 2 {
			names.Endpoints = append(names.Endpoints, Endpoint{
				Name: fmt.Sprint(name, ".", j), Service: name, Stack: "shop", Ready: true,
				Addrs: []Addr{{vip, ip(fmt.Sprintf("10.%d.%d.%d", 2+j, i/250, i%250))}},
			})
		}
	}
	return names
}

func BenchmarkZone(b *testing.B) {
	names := city(10_000)
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			NewZone(names)
		}
	})
	z, a := NewZone(names), here()
	for _, name := range []string{"service-9999.", "tasks.service-17.shop.", "no.such.name.example.org."} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				z.Lookup(&a, dns.Question{Name: name, Qtype: dns.TypeA}, 0)
			}
		})
	}
}

// BenchmarkAnswer is from bytes to bytes, without sockets.
func BenchmarkAnswer(b *testing.B) {
	up := upstreamOf(b, func(_ string, q *dns.Msg) *dns.Msg { return give(q, "192.0.2.1", 3600) })
	r := resolver(b, ForwarderConfig{}, up.addr)
	r.SetZone(NewZone(city(10_000)))
	s := NewServer(r, here())
	for _, name := range []string{"service-9999", "example.org"} {
		wire, err := ask(name, dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			var work sync.WaitGroup
			for b.Loop() {
				s.handle(b.Context(), &work, wire, asOffered, func([]byte) {})
				work.Wait()
			}
		})
	}
}

// BenchmarkServe is over the loopback, 32 questions under way.
func BenchmarkServe(b *testing.B) {
	r := resolver(b, ForwarderConfig{})
	r.SetZone(NewZone(city(10_000)))
	s := serve(b, r, here())
	wire, err := ask("service-9999", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	conn, err := net.Dial("udp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	for range 32 {
		conn.Write(wire)
	}
	for b.Loop() {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
		conn.Write(wire)
	}
}
