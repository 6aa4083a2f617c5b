package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

// town is two stacks with equal names on networks of their own and on one that they share.
func town() Names {
	at := func(network mesh.NetworkID, ips ...string) []Addr {
		var out []Addr
		for _, text := range ips {
			out = append(out, Addr{network, ip(text)})
		}
		return out
	}
	port := []Port{{Name: "http", Number: 80, Proto: mesh.TCP}, {Number: 53, Proto: mesh.UDP}}
	return Names{
		TTL: 5 * time.Second,
		Networks: []Network{
			{ID: "n-shop", Name: "shop-net", Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd01::/48")}},
			{ID: "n-blog", Name: "blog-net", Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}},
			{ID: "n-all", Name: "shared", Subnets: []netip.Prefix{netip.MustParsePrefix("10.3.0.0/16")}},
			{ID: "n-in", Name: "inner", Internal: true},
		},
		Services: []Service{
			{Name: "db", Stack: "shop", VIPs: append(at("n-shop", "10.1.0.100", "fd01::100"), at("n-all", "10.3.0.100")...), Ports: port, Aliases: []Alias{{Name: "store"}, {Name: "only", Network: "n-shop"}}},
			{Name: "db", Stack: "blog", VIPs: append(at("n-blog", "10.2.0.100"), at("n-all", "10.3.0.200")...), Aliases: []Alias{{Name: "store"}}},
			{Name: "web", Stack: "shop", Mode: DNSRR, Networks: []mesh.NetworkID{"n-shop"}, Ports: port},
			{Name: "idle", Mode: DNSRR, Networks: []mesh.NetworkID{"n-all"}},
			{Name: "Plain", VIPs: at("n-all", "10.3.0.9")},
			{Name: "shadow", VIPs: at("n-all", "10.3.0.10")},
			{Name: "dotted.db.shop", VIPs: at("n-all", "10.3.0.11")},
			{Name: "hidden", Stack: "blog", VIPs: at("n-blog", "10.2.0.50")},
		},
		Endpoints: []Endpoint{
			{Name: "db.1", Service: "db", Stack: "shop", Addrs: at("n-shop", "10.1.0.1", "fd01::1"), Ready: true},
			{Name: "db.2", Service: "db", Stack: "shop", Addrs: at("n-shop", "10.1.0.2"), Ready: false},
			{Name: "web.1", Service: "web", Stack: "shop", Addrs: at("n-shop", "10.1.0.11", "fd01::11"), Ready: true, Aliases: []Alias{{Name: "pool"}}},
			{Name: "web.2", Service: "web", Stack: "shop", Addrs: at("n-shop", "10.1.0.12"), Ready: true, Aliases: []Alias{{Name: "pool"}}},
			{Name: "web.3", Service: "web", Stack: "shop", Addrs: at("n-shop", "10.1.0.13"), Ready: false},
			{Name: "lone", Addrs: append(at("n-all", "10.3.0.77"), at("n-in", "10.4.0.77")...), Ready: true},
			{Name: "shadow", Addrs: at("n-all", "10.3.0.78"), Ready: true},
			{Name: `bad\name`, Addrs: at("n-all", "10.3.0.79"), Ready: true},
		},
	}
}

// say is an answer as a person would write it: kind, then what the records give.
func say(a Answer) string {
	out := []string{[]string{"not ours", "found", "no data", "no name"}[a.Kind]}
	for _, rr := range a.Records {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.PTR:
			out = append(out, rr.Ptr)
		case *dns.SRV:
			out = append(out, fmt.Sprintf("%s:%d", rr.Target, rr.Port))
		}
	}
	return strings.Join(out, " ")
}

func TestLookup(t *testing.T) {
	z := NewZone(town())
	shop := Asker{Networks: []mesh.NetworkID{"n-shop", "n-all"}, Stack: "shop"}
	blog := Asker{Networks: []mesh.NetworkID{"n-blog", "n-all"}, Stack: "blog"}
	shared := Asker{Networks: []mesh.NetworkID{"n-all"}}
	inShop := Asker{Networks: []mesh.NetworkID{"n-shop"}}
	inner := Asker{Networks: []mesh.NetworkID{"n-in"}}
	operator := Asker{Everything: true, LocalOnly: true}
	nobody := Asker{}
	for _, tt := range []struct {
		why   string
		asker Asker
		name  string
		qtype uint16
		want  string
	}{
		// 2.2 services
		{"a virtual address on every network that both are on", shop, "db", dns.TypeA, "found 10.1.0.100 10.3.0.100"},
		{"the other family", shop, "db", dns.TypeAAAA, "found fd01::100"},
		{"case means nothing", shop, "DB", dns.TypeA, "found 10.1.0.100 10.3.0.100"},
		{"a name may be written in any case at its maker's too", shared, "plain", dns.TypeA, "found 10.3.0.9"},
		{"dnsrr: ready endpoints only", shop, "web", dns.TypeA, "found 10.1.0.11 10.1.0.12"},
		{"tasks of a VIP service: ready endpoints", shop, "tasks.db", dns.TypeA, "found 10.1.0.1"},
		{"tasks of a dnsrr service", shop, "tasks.web", dns.TypeA, "found 10.1.0.11 10.1.0.12"},
		{"tasks by an alias", shop, "tasks.store", dns.TypeA, "found 10.1.0.1"},
		{"nobody ready, yet it exists", shared, "idle", dns.TypeA, "no data"},
		{"its tasks too", shared, "tasks.idle", dns.TypeAAAA, "no data"},
		{"an alias", shop, "store", dns.TypeA, "found 10.1.0.100 10.3.0.100"},
		{"an alias on one network gives nothing of another", shop, "only", dns.TypeA, "found 10.1.0.100"},
		{"an alias of several gives all", shop, "pool", dns.TypeA, "found 10.1.0.11 10.1.0.12"},
		{"an endpoint", shop, "web.1", dns.TypeA, "found 10.1.0.11"},
		{"an endpoint that is not ready is still called by its own name", shop, "web.3", dns.TypeA, "found 10.1.0.13"},
		{"a service's name comes before an endpoint's equal one", shared, "shadow", dns.TypeA, "found 10.3.0.10"},
		{"a name that cannot be asked for is none", shared, `bad\name`, dns.TypeA, "not ours"},
		// 2.3 networks
		{"not on its network", blog, "web", dns.TypeA, "not ours"},
		{"nor by its full name", blog, "web.shop", dns.TypeA, "not ours"},
		{"nor by its network", blog, "web.shop-net", dns.TypeA, "not ours"},
		{"nor what is in no stack, by its network", blog, "lone.inner", dns.TypeA, "not ours"},
		{"on the internal network only", inner, "lone", dns.TypeA, "found 10.4.0.77"},
		{"on no network", nobody, "lone", dns.TypeA, "not ours"},
		{"an operator sees all", operator, "db.shop", dns.TypeA, "found 10.1.0.100 10.3.0.100"},
		{"and no stack's short names", operator, "db", dns.TypeA, "not ours"},
		// stacks
		{"own stack first", blog, "db", dns.TypeA, "found 10.2.0.100 10.3.0.200"},
		{"the other one by its stack", blog, "db.shop", dns.TypeA, "found 10.3.0.100"},
		{"own one by its stack", shop, "db.shop", dns.TypeA, "found 10.1.0.100 10.3.0.100"},
		{"tasks by stack", inShop, "tasks.db.shop", dns.TypeA, "found 10.1.0.1"},
		{"alias by stack", shared, "store.blog", dns.TypeA, "found 10.3.0.200"},
		{"no stack of its own: no other's short name, not even the only one", inShop, "db", dns.TypeA, "not ours"},
		{"a stack's name for what is in none", shop, "lone", dns.TypeA, "found 10.3.0.77"},
		{"by network", shop, "db.shared", dns.TypeA, "found 10.3.0.100"},
		{"by network, own stack first", blog, "db.shared", dns.TypeA, "found 10.3.0.200"},
		{"by stack and network", blog, "db.shop.shared", dns.TypeA, "found 10.3.0.100"},
		{"a name that is written so is not taken apart", shared, "dotted.db.shop", dns.TypeA, "found 10.3.0.11"},
		{"unknown in a known stack", shop, "nosuch.shop", dns.TypeA, "not ours"},
		// 2.4
		{"a name without the family", shop, "web.2", dns.TypeAAAA, "no data"},
		{"another type", shop, "db", dns.TypeMX, "no data"},
		{"and one that clients ask beside A", shop, "db", dns.TypeHTTPS, "no data"},
		{"PTR of a virtual address", shop, "100.0.1.10.in-addr.arpa", dns.TypePTR, "found db.shop.shop-net."},
		{"PTR of an endpoint", shop, "11.0.1.10.in-addr.arpa", dns.TypePTR, "found web.1.shop.shop-net."},
		{"PTR v6", shop, "1.1." + strings.Repeat("0.", 26) + "1.0.d.f.ip6.arpa", dns.TypePTR, "found web.1.shop.shop-net."},
		{"PTR v6 in capitals", shop, "1.1." + strings.Repeat("0.", 26) + "1.0.D.F.IP6.ARPA", dns.TypePTR, "found web.1.shop.shop-net."},
		{"PTR in no stack", shared, "77.0.3.10.in-addr.arpa", dns.TypePTR, "found lone.shared."},
		{"PTR of a name on a network without name form", inner, "77.0.4.10.in-addr.arpa", dns.TypePTR, "found lone.inner."},
		{"another type of a reverse name", shop, "11.0.1.10.in-addr.arpa", dns.TypeA, "no data"},
		{"PTR of a network that the asker is not on", blog, "11.0.1.10.in-addr.arpa", dns.TypePTR, "not ours"},
		{"PTR of nobody on the asker's network", shop, "250.0.1.10.in-addr.arpa", dns.TypePTR, "no name"},
		{"PTR of the world", shop, "8.8.8.8.in-addr.arpa", dns.TypePTR, "not ours"},
		{"half a reverse name", shop, "1.10.in-addr.arpa", dns.TypePTR, "not ours"},
		{"a reverse name with a zero in front", shop, "011.0.1.10.in-addr.arpa", dns.TypePTR, "not ours"},
		{"SRV by port name: the service itself", shop, "_http._tcp.db", dns.TypeSRV, "found db.:80"},
		{"SRV by number and by stack", shared, "_80._tcp.db.shop", dns.TypeSRV, "found db.shop.:80"},
		{"SRV of dnsrr: its endpoints", shop, "_http._tcp.web", dns.TypeSRV, "found web.1.shop.:80 web.2.shop.:80"},
		{"SRV of tasks", shop, "_http._tcp.tasks.db", dns.TypeSRV, "found db.1.shop.:80"},
		{"SRV udp", shop, "_53._UDP.DB", dns.TypeSRV, "found db.:53"},
		{"SRV of another protocol", shop, "_http._udp.db", dns.TypeSRV, "no name"},
		{"SRV without a port", shop, "_._tcp.db", dns.TypeSRV, "no name"},
		{"SRV of somebody else", shop, "_http._tcp.example.org", dns.TypeSRV, "not ours"},
		{"an SRV name has no address", shop, "_http._tcp.db", dns.TypeA, "no data"},
		{"another name with an underscore", shop, "_dmarc.example.org", dns.TypeTXT, "not ours"},
		{"the root", shop, ".", dns.TypeNS, "not ours"},
		{"the world", shop, "example.org", dns.TypeA, "not ours"},
	} {
		t.Run(tt.why, func(t *testing.T) {
			got := say(z.Lookup(&tt.asker, dns.Question{Name: dns.Fqdn(tt.name), Qtype: tt.qtype, Qclass: dns.ClassINET}, 0))
			if got != tt.want {
				t.Errorf("%s %s: %s, want %s", tt.name, dns.TypeToString[tt.qtype], got, tt.want)
			}
		})
	}
}

// Each record of an answer carries the name as the asker wrote it, and the zone's TTL.
func TestLookupKeepsCase(t *testing.T) {
	z := NewZone(town())
	a := Asker{Networks: []mesh.NetworkID{"n-shop"}, Stack: "shop"}
	for _, q := range []dns.Question{
		{Name: "wEb.", Qtype: dns.TypeA},
		{Name: "_hTTp._tCp.wEb.", Qtype: dns.TypeSRV},
		{Name: "11.0.1.10.iN-aDDr.aRPa.", Qtype: dns.TypePTR},
	} {
		got := z.Lookup(&a, q, 1)
		if len(got.Records) == 0 {
			t.Errorf("%s: no record", q.Name)
		}
		for _, rr := range got.Records {
			if rr.Header().Name != q.Name || rr.Header().Ttl != 5 || rr.Header().Rrtype != q.Qtype {
				t.Errorf("%s: %s", q.Name, rr)
			}
		}
	}
}

func TestLookupOrderChanges(t *testing.T) {
	names := Names{Services: []Service{{Name: "web", Mode: DNSRR}}}
	for i := range 5 {
		names.Endpoints = append(names.Endpoints, Endpoint{
			Name: fmt.Sprint("web.", i), Service: "web", Ready: true,
			Addrs: []Addr{{"n", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}},
		})
	}
	z := NewZone(names)
	a := Asker{Networks: []mesh.NetworkID{"n"}}
	first := map[string]int{}
	for turn := range uint32(1000) {
		got := z.Lookup(&a, dns.Question{Name: "web.", Qtype: dns.TypeA}, turn)
		if len(got.Records) != 5 {
			t.Fatalf("turn %d: %s", turn, say(got))
		}
		first[got.Records[0].(*dns.A).A.String()]++
	}
	for who, n := range first {
		if n != 200 {
			t.Errorf("%s was first %d times of 1000, want 200", who, n)
		}
	}
}

func TestMayForward(t *testing.T) {
	z := NewZone(town())
	for _, tt := range []struct {
		asker Asker
		want  bool
	}{
		{Asker{Networks: []mesh.NetworkID{"n-in"}}, false},
		{Asker{Networks: []mesh.NetworkID{"n-in", "n-all"}}, true},
		{Asker{Networks: []mesh.NetworkID{"n-unknown"}}, false},
		{Asker{}, false},
		{Asker{Networks: []mesh.NetworkID{"n-all"}, LocalOnly: true}, false},
		{Asker{Everything: true}, true},
	} {
		if got := z.MayForward(&tt.asker); got != tt.want {
			t.Errorf("%+v: %v", tt.asker, got)
		}
	}
}

// Whatever the names are: what an asker is told is on one of its networks, is of its own
// stack, of none or of the one that the name says; a reverse name on no network of its own is
// not told.
func TestLookupProperties(t *testing.T) {
	stacks, words := []string{"", "s1", "s2"}, []string{"a", "b", "c"}
	networks := []mesh.NetworkID{"n1", "n2", "n3"}
	rapid.Check(t, func(t *rapid.T) {
		names := Names{Networks: []Network{{ID: "n1", Name: "n1"}, {ID: "n2", Name: "n2"}, {ID: "n3", Name: "n3"}}}
		type owner struct {
			stack   string
			network mesh.NetworkID
		}
		owners := map[netip.Addr]owner{}
		next := byte(0)
		addr := func(stack string) []Addr {
			next++
			a := Addr{rapid.SampledFrom(networks).Draw(t, "network"), netip.AddrFrom4([4]byte{10, 0, 0, next})}
			owners[a.IP] = owner{stack, a.Network}
			return []Addr{a}
		}
		for range rapid.IntRange(0, 6).Draw(t, "services") {
			stack := rapid.SampledFrom(stacks).Draw(t, "stack")
			names.Services = append(names.Services, Service{
				Name: rapid.SampledFrom(words).Draw(t, "name"), Stack: stack, VIPs: addr(stack),
				Mode:    rapid.SampledFrom([]Mode{VIP, DNSRR}).Draw(t, "mode"),
				Aliases: []Alias{{Name: rapid.SampledFrom(words).Draw(t, "alias")}},
			})
		}
		for range rapid.IntRange(0, 6).Draw(t, "endpoints") {
			stack := rapid.SampledFrom(stacks).Draw(t, "stack")
			names.Endpoints = append(names.Endpoints, Endpoint{
				Name: rapid.SampledFrom(words).Draw(t, "name"), Stack: stack, Addrs: addr(stack),
				Service: rapid.SampledFrom(words).Draw(t, "service"), Ready: rapid.Bool().Draw(t, "ready"),
			})
		}
		z := NewZone(names)
		a := Asker{Stack: rapid.SampledFrom(stacks).Draw(t, "asker"), Networks: rapid.SliceOfDistinct(rapid.SampledFrom(networks), rapid.ID).Draw(t, "on")}
		for _, word := range words {
			for _, said := range []string{"", "s1", "s2", "n1", "n2", "s1.n3"} {
				name := strings.TrimSuffix(word+"."+said, ".") + "."
				got := z.Lookup(&a, dns.Question{Name: name, Qtype: dns.TypeA}, 0)
				for _, rr := range got.Records {
					at, _ := netip.AddrFromSlice(rr.(*dns.A).A.To4())
					o := owners[at]
					if !slices.Contains(a.Networks, o.network) {
						t.Fatalf("%s gives %s on %s to %+v", name, at, o.network, a)
					}
					stack, network, _ := strings.Cut(said, ".")
					if strings.HasPrefix(stack, "n") {
						stack, network = "", stack
					}
					if network != "" && string(o.network) != network {
						t.Fatalf("%s gives %s on %s", name, at, o.network)
					}
					if stack == "" && o.stack != "" && o.stack != a.Stack || stack != "" && o.stack != stack {
						t.Fatalf("%s gives %s of stack %q to %+v", name, at, o.stack, a)
					}
				}
			}
		}
		for at, o := range owners {
			reverse, _ := dns.ReverseAddr(at.String())
			got := z.Lookup(&a, dns.Question{Name: reverse, Qtype: dns.TypePTR}, 0)
			if (got.Kind == Found) && !slices.Contains(a.Networks, o.network) {
				t.Fatalf("%s is told to %+v", say(got), a)
			}
		}
	})
}

func TestFromSnapshot(t *testing.T) {
	v := street(t)
	v.node(1, block(back, "10.9.0.0/26", "fd09::/64"), block(mesh.IngressNetwork, "198.18.0.0/27", "fd12:3456:7890::/64"))
	web := v.service(1, "web")
	web.Publish = []mesh.PublishedPort{{Proto: mesh.TCP, Published: 8080, Target: 80}, {Proto: mesh.TCP, Published: 8081, Target: 80}}
	v.put(mesh.ServiceRecord(web))
	younger := v.service(2, "web")
	first := v.endpoint(1, "web.1", web, 1, "10.9.0.2", "fd09::3")
	first.Attached = append([]mesh.Attachment{{Network: mesh.IngressNetwork, V4: ip("198.18.0.2"), V6: ip("fd12:3456:7890::3")}}, first.Attached...)
	v.put(mesh.EndpointRecord(first))
	second := v.endpoint(2, "web.2", web, 1, "10.9.0.3", "fd09::4")
	second.State = mesh.Draining
	v.put(mesh.EndpointRecord(second))
	v.endpoint(3, "web.3", younger, 1, "10.9.0.4", "fd09::5")
	snap := v.state.Snapshot()
	z := NewZone(FromSnapshot(snap, "a000000000000001", nil))
	a := Asker{Networks: []mesh.NetworkID{mesh.IngressNetwork, back}}
	got := map[string]string{}
	for _, q := range []dns.Question{
		{Name: "web.", Qtype: dns.TypeA},
		{Name: "web.", Qtype: dns.TypeAAAA},
		{Name: "web.2.", Qtype: dns.TypeA},
		{Name: "web.3.", Qtype: dns.TypeA},
		{Name: "_80._tcp.web.", Qtype: dns.TypeSRV},
		{Name: "2.0.18.198.in-addr.arpa.", Qtype: dns.TypePTR},
		{Name: "2.0.9.10.in-addr.arpa.", Qtype: dns.TypePTR},
		{Name: "99.0.9.10.in-addr.arpa.", Qtype: dns.TypePTR},
		{Name: "99.0.77.10.in-addr.arpa.", Qtype: dns.TypePTR},
	} {
		got[q.Name+" "+dns.TypeToString[q.Qtype]] = say(z.Lookup(&a, q, 0))
	}
	want := map[string]string{
		"web. A": "found 10.9.0.2", "web. AAAA": "found fd09::3", "web.2. A": "found 10.9.0.3", "web.3. A": "found 10.9.0.4",
		"_80._tcp.web. SRV": "found web.1.:80", "2.0.18.198.in-addr.arpa. PTR": "not ours",
		"2.0.9.10.in-addr.arpa. PTR": "found web.1.back.", "99.0.9.10.in-addr.arpa. PTR": "no name",
		"99.0.77.10.in-addr.arpa. PTR": "no name",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !z.MayForward(&Asker{Networks: []mesh.NetworkID{mesh.IngressNetwork}}) {
		t.Error("an endpoint that only publishes may not ask the world")
	}
}
