package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// query asks the name server of a namespace.
func query(at probe.Place, proto, name string, kind uint16) (*dns.Msg, error) {
	var conn net.Conn
	err := at.Do(func() (err error) {
		conn, err = net.DialTimeout(proto, "127.0.0.11:53", patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	answer, _, err := (&dns.Client{Timeout: patience}).ExchangeWithConn(q, &dns.Conn{Conn: conn})
	return answer, err
}

// resolve is what a name gives, sorted, as text.
func resolve(at probe.Place, proto, name string, kind uint16) string {
	m, err := query(at, proto, name, kind)
	if err != nil {
		return probe.Outcome(err)
	}
	var values []string
	for _, rr := range m.Answer {
		switch r := rr.(type) {
		case *dns.A:
			values = append(values, r.A.String())
		case *dns.AAAA:
			values = append(values, r.AAAA.String())
		case *dns.PTR:
			values = append(values, r.Ptr)
		case *dns.SRV:
			values = append(values, fmt.Sprintf("%d %s", r.Port, r.Target))
		}
	}
	if len(values) == 0 {
		return dns.RcodeToString[m.Rcode]
	}
	slices.Sort(values)
	return strings.Join(values, " ")
}

// testScopes asks names from endpoints: each gets what its own networks have.
func testScopes(t *testing.T, b *base) {
	t.Helper()
	stop := upstream(t, b)
	defer stop()
	b.sluice(t, "service", "create", "named", "--network", "nat", "--alias", "called", "--publish", "8950:80/tcp,mode=host")
	r := b.attach(t, b.node, "named", "nat")
	second := b.attach(t, b.node, "named", "nat", "--network", "nat,alias=only-second")
	b.rest(t)
	four, six := r.addr(cluster.IPv4), r.addr(cluster.IPv6)
	both := []string{four.String(), second.addr(cluster.IPv4).String()}
	slices.Sort(both)
	all := strings.Join(both, " ")
	near, far := b.of("nat-same"), b.of("other")
	for _, proto := range protocols() {
		for _, tt := range []struct {
			who  *resident
			name string
			kind uint16
			want string
		}{
			{near, "named", dns.TypeA, all},
			{near, "NAMED", dns.TypeA, all},
			{near, "called", dns.TypeA, all},
			{near, "tasks.named", dns.TypeA, all},
			{near, "named.nat", dns.TypeA, all},
			{near, r.name, dns.TypeA, four.String()},
			{near, r.name, dns.TypeAAAA, six.String()},
			{near, "only-second", dns.TypeA, second.addr(cluster.IPv4).String()},
			{near, "named", dns.TypeMX, "NOERROR"},
			{near, reverse(four), dns.TypePTR, r.name + ".nat."},
			{near, reverse(six), dns.TypePTR, r.name + ".nat."},
			{far, "named", dns.TypeA, "NXDOMAIN"},
			{far, "called", dns.TypeA, "NXDOMAIN"},
			{far, "tasks.named", dns.TypeAAAA, "NXDOMAIN"},
			{far, r.name, dns.TypeA, "NXDOMAIN"},
			{far, "other", dns.TypeA, far.addr(cluster.IPv4).String()},
			{b.of("internal-same"), "internal-target", dns.TypeA, b.of("internal-target").addr(cluster.IPv4).String()},
			{b.of("apart-same"), "apart-target", dns.TypeA, b.of("apart-target").addr(cluster.IPv4).String()},
		} {
			if got := resolve(tt.who, proto, tt.name, tt.kind); got != tt.want {
				t.Errorf("%s asks %s for %s over %s: %s, want %s", tt.who.name, tt.name, dns.TypeToString[tt.kind], proto, got, tt.want)
			}
		}
	}
	b.sluice(t, "endpoint", "detach", second.name)
	until(t, "the name gives one address", func() error {
		if got := resolve(near, "udp", "named", dns.TypeA); got != four.String() {
			return fmt.Errorf("it gives %s", got)
		}
		return nil
	})
}

func reverse(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err) // a mistake in a test
	}
	return name
}

// testForwarding asks for a name of the world: from an internal network no query leaves.
func testForwarding(t *testing.T, b *base) {
	t.Helper()
	var mu sync.Mutex
	var heard []string
	stop := upstreamTelling(t, b, func(name string) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, name)
	})
	defer stop()
	if got := resolve(b.of("internal-same"), "udp", "secret.example.", dns.TypeA); got == world {
		t.Errorf("an endpoint of an internal network is told of the world: %s", got)
	}
	for _, proto := range protocols() {
		if got := resolve(b.of("nat-same"), proto, proto+".open.example.", dns.TypeA); got != world {
			t.Errorf("a name of the world over %s: %s, want %s", proto, got, world)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.ContainsFunc(heard, func(name string) bool { return strings.Contains(name, "secret") }) || len(heard) == 0 {
		t.Errorf("the world was asked for %v", heard)
	}
}

const world = "203.0.113.7" // what every name of the world gives

// upstream is a name server of the world, at the addresses that this machine's resolv.conf has.
func upstream(t *testing.T, b *base) (stop func()) {
	t.Helper()
	return upstreamTelling(t, b, func(string) {})
}

func upstreamTelling(t *testing.T, b *base, tell func(name string)) (stop func()) {
	t.Helper()
	var servers []*dns.Server
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		tell(name)
		if strings.HasSuffix(name, ".example.") {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(world)}} //nolint:forbidigo // the library's type
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m) // who asked sees that no answer comes
	})
	for _, a := range nameServers(t) {
		place := b.world(t, a)
		err := place.Do(func() error {
			at := netip.AddrPortFrom(a, 53).String()
			packets, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			streams, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			servers = append(servers, &dns.Server{PacketConn: packets, Handler: handler}, &dns.Server{Listener: streams, Handler: handler})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	for _, s := range servers {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		group.Go(func() {
			if err := s.ActivateAndServe(); err != nil {
				t.Errorf("name server of the world: %v", err)
			}
		})
		<-started
	}
	return func() {
		for _, s := range servers {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
		}
		group.Wait()
	}
}

// nameServers are those of this machine, which the agent asks too.
func nameServers(t *testing.T) []netip.Addr {
	t.Helper()
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	var list []netip.Addr
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// world makes an address one of the client's that the node has a route to. The node's own
// loopback addresses are there already.
func (b *base) world(t *testing.T, a netip.Addr) probe.Place {
	t.Helper()
	if a.IsLoopback() {
		return b.node
	}
	host := netip.PrefixFrom(a, a.BitLen())
	family := cluster.IPv6
	if a.Is4() {
		family = cluster.IPv4
	}
	if strings.Contains(said(t, b.Client.Space, "ip", "-o", "address"), " "+host.String()+" ") {
		return b.Client
	}
	if err := b.Client.Address("lo", host); err != nil {
		t.Fatal(err)
	}
	if err := b.node.Route(host, b.Client.Addr(family)); err != nil {
		t.Fatal(err)
	}
	return b.Client
}

// testNamesBack kills the agent: its endpoints' names are back soon after it answers again.
func testNamesBack(t *testing.T, b *base) {
	t.Helper()
	const limit = time.Second
	near, want := b.of("nat-same"), b.of("nat-target").addr(cluster.IPv4).String()
	if err := b.node.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if err := b.node.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until(t, "the name is back", func() error {
		if got := resolve(near, "udp", "nat-target", dns.TypeA); got != want {
			return fmt.Errorf("it gives %s", got)
		}
		return nil
	})
	if took := time.Since(began); took > limit {
		t.Errorf("the name was back after %s, want %s", took, limit)
	}
}
