package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// testPing: what endpoints of one network may say to each other they may say by ICMP too, and
// by their link-local addresses.
func testPing(t *testing.T, b *base) {
	t.Helper()
	for _, kind := range []string{"nat", "internal", "apart", "routed"} {
		from, to := b.of(kind+"-same"), b.of(kind+"-target")
		var link string
		for line := range strings.Lines(said(t, to.Space, "ip", "-o", "-6", "address", "show", "scope", "link")) {
			if f := strings.Fields(line); len(f) > 3 && f[1] != "lo" {
				link = strings.TrimSuffix(f[3], "/64") + "%" + f[1] // the name is the same in both
			}
		}
		for _, at := range []string{to.addr(cluster.IPv4).String(), to.addr(cluster.IPv6).String(), link} {
			_, err := from.Run(t.Context(), "ping", "-n", "-c1", "-W1", at)
			if answered, want := err == nil, kind != "apart"; answered != want {
				t.Errorf("%s: ping %s is answered: %t, want %t: %v", kind, at, answered, want, err)
			}
		}
	}
}

// testDistinctLoopbacks publishes one port on two loopback addresses, each for its own service.
func testDistinctLoopbacks(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "loops")
	for i, service := range []string{"loop-a", "loop-b"} {
		at := fmt.Sprintf("127.0.0.%d", 2+i)
		b.sluice(t, append([]string{"service", "create", service, "--network", "loops"}, publish(at+":9100:80")...)...)
		b.attach(t, b.node, service, "loops")
	}
	b.rest(t)
	for i, service := range []string{"loop-a.1", "loop-b.1"} {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}), 9100)
		c := probe.Client{Place: b.node, Wait: patience}
		if a, err := c.Get(to); err != nil || a.Name != service {
			t.Errorf("tcp %s: %+v, %v, want %s", to, a, err, service)
		}
		if a, err := c.Ask(to, 1); err != nil || a.Name != service {
			t.Errorf("udp %s: %+v, %v, want %s", to, a, err, service)
		}
	}
	none := netip.MustParseAddrPort("127.0.0.1:9100")
	if a, err := (probe.Client{Place: b.node, Wait: patience}).Get(none); probe.Outcome(err) != "refused" {
		t.Errorf("%s: %+v, %v, want it refused", none, a, err)
	}
}

// testTaken has two endpoints of one node want one port: the first keeps it, and the node says
// who does not have it.
func testTaken(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "wanted")
	b.sluice(t, append([]string{"service", "create", "wanted", "--network", "wanted"}, publish("9200:80")...)...)
	first := b.attach(t, b.node, "wanted", "wanted")
	second := b.attach(t, b.node, "wanted", "wanted")
	b.rest(t)
	to := netip.AddrPortFrom(b.node.V4, 9200)
	client := probe.Client{Place: b.Client, Wait: patience}
	for range 8 {
		if a, err := client.Get(to); err != nil || a.Name != first.name {
			t.Fatalf("%s: %+v, %v, want %s", to, a, err, first.name)
		}
	}
	status, err := b.node.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, p := range status.GetProblems() {
		told = told || p.GetReason() == string(plan.PortTaken) && strings.Contains(p.GetObject(), second.name)
	}
	if !told {
		t.Errorf("the node's status does not say that %s lacks its port: %v", second.name, status.GetProblems())
	}
	b.sluice(t, "endpoint", "detach", first.name)
	until(t, second.name+" answers", func() error {
		a, err := client.Get(to)
		if err == nil && a.Name != second.name {
			err = fmt.Errorf("%s answers", a.Name)
		}
		return err
	})
}

// testListed wants every port of a service in what is listed of it.
func testListed(t *testing.T, b *base) {
	t.Helper()
	s, err := b.node.Service(t.Context(), "nat-target")
	if err != nil {
		t.Fatal(err)
	}
	want := len(publications(0, b.protos)) / 2
	if len(s.GetPorts()) != want {
		t.Errorf("%d ports are listed, want %d: %v", len(s.GetPorts()), want, s.GetPorts())
	}
	for _, p := range s.GetPorts() {
		if p.GetMode() != "host" {
			t.Errorf("port %v is not in mode host", p)
		}
	}
}

// testFirstAnswer asks all the time while a port comes, goes and comes: who is answered at all
// is answered by the endpoint, which sees the client.
func testFirstAnswer(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "early")
	b.sluice(t, append([]string{"service", "create", "early", "--network", "early"}, publish("9300:80")...)...)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	for _, f := range bothFamilies() {
		client := probe.Client{Place: b.Client, Wait: 200 * time.Millisecond}
		to := netip.AddrPortFrom(b.node.Addr(f), 9300)
		group.Go(func() {
			for ctx.Err() == nil {
				a, err := client.Get(to)
				text := probe.Outcome(err)
				if err == nil {
					text = "sees " + a.Source.Addr().String()
				}
				mu.Lock()
				seen[text]++
				mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	r := b.attach(t, b.node, "early", "early")
	b.rest(t)
	time.Sleep(200 * time.Millisecond)
	b.sluice(t, "endpoint", "detach", r.name)
	b.attach(t, b.node, "early", "early")
	b.rest(t)
	time.Sleep(200 * time.Millisecond)
	stop()
	group.Wait()
	for text, n := range seen {
		switch text {
		case "refused", "reset", "silence", "sees " + b.Client.V4.String(), "sees " + b.Client.V6.String():
		default:
			t.Errorf("%d times: %s", n, text)
		}
	}
	if seen["sees "+b.Client.V4.String()] == 0 || seen["sees "+b.Client.V6.String()] == 0 || seen["refused"] == 0 {
		t.Errorf("seen were only %v", seen)
	}
}

// testFlush flushes all rules while forbidden packets keep coming: published ports are back
// within a second, what is forbidden never arrives once the table is there, and what was
// removed before stays away.
func testFlush(t *testing.T, b *base) {
	t.Helper()
	const limit = time.Second
	b.network(t, "gone")
	b.sluice(t, append([]string{"service", "create", "gone", "--network", "gone"}, publish("9400:80")...)...)
	b.attach(t, b.node, "gone", "gone")
	b.rest(t)
	b.sluice(t, "endpoint", "detach", "gone.1")
	b.sluice(t, "service", "rm", "gone")
	b.rest(t)
	for _, how := range [][]string{{"nft", "flush", "ruleset"}, {"nft", "delete", "table", "inet", plan.TableName}} {
		said(t, b.node.Space, how...)
		began := time.Now()
		to := netip.AddrPortFrom(b.node.V4, publishedBy(0, probe.TargetPort))
		until(t, "the published port is back", func() error {
			_, err := probe.Client{Place: b.Client, Wait: 100 * time.Millisecond}.Get(to)
			return err
		})
		if took := time.Since(began); took > limit {
			t.Errorf("after %s the port is back after %s, want %s", strings.Join(how, " "), took, limit)
		}
		b.rest(t)
		if _, err := (probe.Client{Place: b.Client, Wait: patience}).Get(netip.AddrPortFrom(b.node.V4, 9400)); probe.Outcome(err) != "refused" {
			t.Errorf("after %s a removed port: %v, want it refused", strings.Join(how, " "), err)
		}
		testMatrix(t, b, spread(matrix.Cells()))
	}
}

// testForwardPolicy has another program drop what the host forwards: no cell changes, and its
// table is as it was.
func testForwardPolicy(t *testing.T, b *base) {
	t.Helper()
	const theirs = "table inet theirs { chain passing { type filter hook forward priority 10; policy accept; jump rest; }; chain rest { reject with icmpx admin-prohibited; }; }"
	said(t, b.node.Space, "nft", theirs)
	until(t, "the other program lets it pass", func() error {
		_, err := probe.Client{Place: b.Client, Wait: 200 * time.Millisecond}.Get(netip.AddrPortFrom(b.node.V4, publishedBy(0, probe.TargetPort)))
		return err
	})
	b.rest(t)
	testMatrix(t, b, spread(matrix.Cells()))
	said(t, b.node.Space, "nft", "delete", "table", "inet", "theirs")
	b.rest(t)
}

// testForeign has somebody else's device under the name that a bridge would have: the endpoint
// is refused with a reason, the device stays, and everything else works.
func testForeign(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "foreign")
	b.sluice(t, "service", "create", "foreign", "--network", "foreign")
	var answer sluicev1.GetNetworkResponse
	text := b.sluice(t, "network", "inspect", "foreign", "-o", "json")
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	device := plan.BridgeLink(answer.GetNetwork().GetId())
	said(t, b.node.Space, "ip", "link", "add", device, "type", "veth", "peer", "name", "theirs")
	s, err := b.Space("foreign-refused")
	if err != nil {
		t.Fatal(err)
	}
	made, err := b.node.Try(t.Context(), "endpoint", "attach", "--service", "foreign", "--name", "foreign.0", "--netns", s.Path)
	if err != nil || made.Code == 0 || !strings.Contains(made.Stderr, device) {
		t.Errorf("attach beside a device named %s: exit %d, %v, %q", device, made.Code, err, made.Stderr)
	}
	if left := said(t, s, "ip", "-o", "link"); strings.Contains(left, "\n") {
		t.Errorf("the refused endpoint has\n%s", left)
	}
	if kind := said(t, b.node.Space, "ip", "-d", "link", "show", device); !strings.Contains(kind, "veth") {
		t.Errorf("the device of somebody else is\n%s", kind)
	}
	testMatrix(t, b, spread(matrix.Cells()))
	said(t, b.node.Space, "ip", "link", "delete", device)
	b.attach(t, b.node, "foreign", "foreign")
	b.rest(t)
}

// testRefusals wants networks refused that cannot be, with a reason, and nothing left of them.
func testRefusals(t *testing.T, b *base) {
	t.Helper()
	before := b.sluice(t, "network", "ls")
	bridge := []string{"network", "create", "refused", "--driver", "bridge"}
	for _, args := range [][]string{
		{"--subnet", "172.20.0.128/25"},                          // within another's
		{"--subnet", "172.16.0.0/12"},                            // around others'
		{"--subnet", "10.77.0.0/31"},                             // no room for a gateway and an endpoint
		{"--subnet", "10.77.0.0/7"},                              // too large
		{"--subnet", "fd77:7::/127"},                             // too small
		{"--subnet", "10.77.0.0/24", "--subnet", "10.78.0.0/24"}, // two of one family
		{"--subnet", "10.77.0.0/24", "--gateway", "10.78.0.1"},   // elsewhere
		{"--subnet", "10.77.0.0/24", "--gateway", "10.77.0.255"}, // the broadcast address
		{"--subnet", "192.168.50.0/24"},                          // the host's own link
		{"--mtu", "1279"},
		{"--mtu", "65536"},
		{"--subnet", "10.77.0.0/24", "--direct-routing", "perhaps"},
	} {
		made, err := b.node.Try(t.Context(), append(bridge, args...)...)
		if err != nil || made.Code == 0 || !strings.HasPrefix(made.Stderr, "sluice: ") {
			t.Errorf("network create %v: exit %d, %v, %q, want it refused", args, made.Code, err, made.Stderr)
		}
	}
	if after := b.sluice(t, "network", "ls"); after != before {
		t.Errorf("networks were\n%s\nand are\n%s", before, after)
	}
}
