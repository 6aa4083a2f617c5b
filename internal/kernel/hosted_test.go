package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// hostedPlan is a bridge whose host leads what is dialled at it elsewhere, by two maps.
func hostedPlan(ports, ranges []plan.Element, kept ...plan.Flow) *plan.Plan {
	p := bridged{endpoints: 2, mtu: 1500, device: "eth0"}.plan()
	host := p.Host()
	host.Flows = kept
	t := host.Table("inet")
	single := t.Map("hosted4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	single.Value = append(single.Value, plan.FieldPort)
	single.Elements = ports
	many := t.Map("hosted_range4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	many.Ranges, many.Elements = true, ranges
	t.Chain("output", "type nat hook output priority -100;").Rule(
		"fib daddr type local meta l4proto . th dport @hosted_range4 dnat ip to meta l4proto . th dport map @hosted_range4",
		"fib daddr type local dnat ip to meta l4proto . th dport map @hosted4",
	)
	p.Sort()
	return p
}

// answering says its name to every datagram that comes to a port of an endpoint.
func answering(t *testing.T, w *kernel.Workload, port int, name string) {
	t.Helper()
	s, err := space.Open(w.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var conn net.PacketConn
	if err := s.Do(func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buffer := make([]byte, 100)
		for {
			_, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(name), from) // whoever does not get it asks again
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
}

// asker keeps one socket, and so one flow.
type asker struct{ net.Conn }

func asking(t *testing.T, port int) asker {
	t.Helper()
	conn, err := net.Dial("udp4", fmt.Sprintf("172.31.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return asker{conn}
}

// answer is who answers; "nobody" where it is refused.
func (a asker) answer(t *testing.T) string {
	t.Helper()
	buffer := make([]byte, 100)
	for range 10 { // an error may be of an earlier datagram
		_, _ = a.Write([]byte("x"))
		if err := a.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := a.Read(buffer); err == nil {
			return string(buffer[:n])
		}
	}
	return "nobody"
}

// Datagrams follow the maps at once, also those of a flow that goes on; nobody else's flow
// is touched.
func TestFlowsFollowHostedPorts(t *testing.T) {
	element := func(key, value string) plan.Element { return plan.Element{Key: key, Value: value} }
	inHost(t, func() {
		ip(t, "link set lo up")
		dir := runDir(t)
		k, err := kernel.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { k.Close() }()
		p := hostedPlan(nil, nil)
		workloads := pinWorkloads(t, k, p)
		mustApply(t, k, p)
		for i, w := range workloads {
			for _, port := range []int{7, 9100, 9101} {
				answering(t, w, port, fmt.Sprintf("endpoint %d", i+1))
			}
		}
		// Another program's rule, which is taken away when its flow is there.
		sh(t, `nft add table ip others
			nft 'add chain ip others output { type nat hook output priority -101; }'
			nft add rule ip others output udp dport 9200 dnat to 172.31.0.2:7`)
		others := asking(t, 9200)
		if got := others.answer(t); got != "endpoint 1" {
			t.Fatalf("another program's flow: %s", got)
		}
		sh(t, "nft delete table ip others")

		one, many := asking(t, 9000), asking(t, 9101)
		ask := func(what, wantOne, wantMany string) {
			t.Helper()
			if got := one.answer(t); got != wantOne {
				t.Errorf("%s: port 9000 is answered by %s, want %s", what, got, wantOne)
			}
			if got := many.answer(t); got != wantMany {
				t.Errorf("%s: port 9101 is answered by %s, want %s", what, got, wantMany)
			}
			if got := others.answer(t); got != "endpoint 1" {
				t.Errorf("%s: another program's flow is answered by %s", what, got)
			}
			if t.Failed() {
				t.FailNow()
			}
		}
		ask("not published", "nobody", "nobody")
		first := hostedPlan([]plan.Element{element("udp . 9000", "172.31.0.2 . 7")}, []plan.Element{element("udp . 9100-9101", "172.31.0.2")})
		mustApply(t, k, first)
		ask("published", "endpoint 1", "endpoint 1")
		second := hostedPlan([]plan.Element{element("udp . 9000", "172.31.0.3 . 7")}, []plan.Element{element("udp . 9100-9101", "172.31.0.3")})
		mustApply(t, k, second)
		ask("changed", "endpoint 2", "endpoint 2")

		k.Close() // an agent that was started again, with a table of other rules than before
		if k, err = kernel.New(dir); err != nil {
			t.Fatal(err)
		}
		rules := hostedPlan(slices.Clone(first.Host().Tables[0].Sets[0].Elements), first.Host().Tables[0].Sets[1].Elements)
		rules.Host().Tables[0].Chains[0].Rule("counter")
		mustApply(t, k, rules)
		ask("changed while away", "endpoint 1", "endpoint 1")
		sh(t, "nft flush ruleset")
		mustApply(t, k, second)
		ask("changed and flushed", "endpoint 2", "endpoint 2")

		// An agent that ends when the rules are changed and the flows are not.
		ctx, end := context.WithCancel(t.Context())
		kernel.SetStages(k, func(stage string) {
			if strings.HasPrefix(stage, "after ") && strings.Contains(stage, "nft elements") {
				end()
			}
		})
		k.Apply(ctx, first)
		if ctx.Err() == nil {
			t.Fatal("no element was changed")
		}
		k.Close()
		if k, err = kernel.New(dir); err != nil {
			t.Fatal(err)
		}
		mustApply(t, k, first)
		ask("changed when it ended", "endpoint 1", "endpoint 1")
		mustApply(t, k, second)
		ask("changed after it ended", "endpoint 2", "endpoint 2")

		kept := netip.MustParseAddr("172.31.0.3")
		mustApply(t, k, hostedPlan(nil, nil, plan.Flow{Addr: kept, Port: 7}, plan.Flow{Addr: kept}))
		ask("left to finish", "endpoint 2", "endpoint 2")
		mustApply(t, k, hostedPlan(nil, nil))
		ask("gone", "nobody", "nobody")
		mustApply(t, k, &plan.Plan{})
		if _, err := os.Stat(filepath.Join(dir, kernel.CapturesName)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", kernel.CapturesName, err)
		}
	})
}

// A reply to ::1 is let in by each device that has a local route for it.
func TestLoopbackByManyDevices(t *testing.T) {
	inHost(t, func() {
		ip(t, "link set lo up")
		// Where bridges ask the firewall, they ask it before IPv6 looks at the packet, and
		// that drops what has ::1 by then.
		sh(t, "if test -e /proc/sys/net/bridge; then sysctl -qw net.bridge.bridge-nf-call-ip6tables=0; fi")
		k := newKernel(t)
		defer k.Close()
		loopback := netip.PrefixFrom(netip.IPv6Loopback(), 128)
		build := func(bridges ...byte) *plan.Plan {
			p := &plan.Plan{}
			host := p.Host()
			t := host.Table("inet")
			m := t.Map("hosted6", plan.FieldIPv6, plan.FieldPort)
			t.Chain("output", "type nat hook output priority -100;").Rule("ip6 daddr ::1 meta l4proto tcp dnat ip6 to tcp dport map @hosted6")
			t.Chain("post", "type nat hook postrouting priority 100;").Rule(`ip6 saddr ::1 oifname "sl-b*" masquerade`)
			for _, b := range bridges {
				one := bridged{endpoints: 1, mtu: 1500, device: "eth0", net: b, id: b}.plan()
				for _, s := range one.Sandboxes {
					if s.Kind != plan.KindHost {
						p.Sandboxes = append(p.Sandboxes, s)
						continue
					}
					host.Links, host.Addrs = append(host.Links, s.Links...), append(host.Addrs, s.Addrs...)
					bridge := s.Addrs[0].Link
					host.Routes = append(host.Routes, plan.Route{Kind: plan.RouteLocal, Dst: loopback, Link: bridge})
				}
				_, v6 := bridged{net: b}.addr(1)
				m.Put(v6.Addr().String(), fmt.Sprint(8000+int(b)))
			}
			p.Sort()
			return p
		}
		p := build(1, 2, 3)
		fake := kernel.NewFake()
		for _, e := range endpoints(p) {
			fake.Pin(e)
		}
		mustApply(t, fake, p)
		for i, w := range pinWorkloads(t, k, p) {
			s, err := space.Open(w.Path())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Do(func() error {
				l, err := net.Listen("tcp6", fmt.Sprintf(":%d", 8001+i))
				if err == nil {
					t.Cleanup(func() { l.Close() })
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		mustApply(t, k, p)
		dial := func(port int) error {
			conn, err := net.DialTimeout("tcp6", fmt.Sprintf("[::1]:%d", port), 2*time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		}
		for port := 8001; port <= 8003; port++ {
			if err := dial(port); err != nil {
				t.Errorf("by bridge %d: %v", port-8000, err)
			}
		}
		mustApply(t, k, build(1, 3))
		if routes := sh(t, "ip -6 route show table local | grep '^local ::1 '"); strings.Count(routes, "proto 83") != 2 || !strings.Contains(routes, "proto kernel") {
			t.Errorf("local routes: %s", routes)
		}
		if err := dial(8003); err != nil {
			t.Errorf("by bridge 3, when 2 is gone: %v", err)
		}
		mustApply(t, k, &plan.Plan{})
	})
}
