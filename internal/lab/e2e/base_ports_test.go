package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

func bothFamilies() []cluster.Family { return []cluster.Family{cluster.IPv4, cluster.IPv6} }

func protocols() []string { return []string{"tcp", "udp"} }

// publish is one port over TCP and UDP in mode host, as flags.
func publish(spec string) []string {
	at, options, _ := strings.Cut(spec, ",")
	if options != "" {
		options = "," + options
	}
	return []string{"--publish", at + "/tcp,mode=host" + options, "--publish", at + "/udp,mode=host" + options}
}

// dial is a question to the node's port, with markers to another of its ports.
type dial struct {
	from  probe.Client
	proto string
	to    netip.AddrPort
	who   *resident
	port  uint16 // of who
	mark  uint16 // a port of the node that leads to who's markerTarget
}

func (b *base) dial(d dial) string {
	d.from.Wait = patience
	family := cluster.IPv4
	if d.to.Addr().Is6() {
		family = cluster.IPv6
	}
	marks := netip.AddrPortFrom(b.node.Addr(family), d.mark)
	return question{
		begin: func() (*probe.Attempt, error) { return d.from.Begin(d.proto, d.to) },
		mark:  func() error { return marker(d.from.Place, marks, d.who) },
		proto: d.proto, family: family, who: d.who, port: d.port,
	}.try()
}

// testRange publishes a range: it keeps its numbers, ends where it ends, and is one element.
func testRange(t *testing.T, b *base) {
	t.Helper()
	i := b.network(t, "ranged")
	flags := append(publish("9000-9010:9000-9010"), publish("8990:84")...)
	b.sluice(t, append([]string{"service", "create", "ranged", "--network", "ranged"}, flags...)...)
	r := b.attach(t, b.node, "ranged", "ranged")
	b.serve(t, r, r.name, 8999, 9000, 9005, 9010, 9011)
	b.rest(t)
	for _, f := range bothFamilies() {
		for _, proto := range protocols() {
			for port, want := range map[uint16]string{8999: "does not arrive", 9000: "", 9005: "", 9010: "", 9011: "does not arrive"} {
				d := dial{from: probe.Client{Place: b.Client}, proto: proto, to: netip.AddrPortFrom(b.node.Addr(f), port), who: r, port: port, mark: 8990}
				if want == "" {
					want = "sees " + b.Client.Addr(f).String()
				}
				if got := b.dial(d); got != want {
					t.Errorf("%s %s: %s, want: %s", proto, d.to, got, want)
				}
				if port < 9000 || port > 9010 {
					continue
				}
				d.from.Place, d.to, want = b.node, netip.AddrPortFrom(loopbackOf(f), port), "sees "+gateway(i, f).String()
				if got := b.dial(d); got != want {
					t.Errorf("%s %s from the host: %s, want: %s", proto, d.to, got, want)
				}
			}
		}
	}
	rules := said(t, b.node.Space, "nft", "list", "table", "inet", plan.TableName)
	if !strings.Contains(rules, "9000-9010") || strings.Contains(rules, "9005") {
		t.Error("the range is not one element")
	}
}

// testSources publishes a port for one client, in both modes: another one does not get in, the
// host always does.
func testSources(t *testing.T, b *base) {
	t.Helper()
	const welcome = 101
	four, six := netip.MustParsePrefix("192.168.50.101/32"), netip.MustParsePrefix("fd50::101/128")
	if err := b.Client.Address("eth0", four, six); err != nil {
		t.Fatal(err)
	}
	said(t, b.Client.Space, "ip", "address", "change", six.String(), "dev", "eth0", "preferred_lft", "0") // for who asks for it
	b.network(t, "limited")
	flags := append(publish(fmt.Sprintf("8700:80,source=%s,source=%s", four, six)), publish("8701:84")...)
	for _, proto := range protocols() {
		flags = append(flags, "--publish", fmt.Sprintf("8702:80/%s,source=%s,source=%s", proto, four, six))
	}
	b.sluice(t, append([]string{"service", "create", "limited", "--network", "limited"}, flags...)...)
	r := b.attach(t, b.node, "limited", "limited")
	b.rest(t)
	for _, f := range bothFamilies() {
		friend := four.Addr()
		if f == cluster.IPv6 {
			friend = six.Addr()
		}
		for _, proto := range protocols() {
			for _, port := range []uint16{8700, 8702} {
				d := dial{from: probe.Client{Place: b.Client}, proto: proto, to: netip.AddrPortFrom(b.node.Addr(f), port), who: r, port: probe.TargetPort, mark: 8701}
				if got := b.dial(d); got != "does not arrive" {
					t.Errorf("%s %s from another source: %s", proto, d.to, got)
				}
				d.from.Local = netip.AddrPortFrom(friend, 0)
				if got, want := b.dial(d), "sees "+friend.String(); got != want {
					t.Errorf("%s %s from source .%d: %s, want: %s", proto, d.to, welcome, got, want)
				}
				d.from = probe.Client{Place: b.node}
				if got := b.dial(d); !strings.HasPrefix(got, "sees ") {
					t.Errorf("%s %s from the host itself: %s", proto, d.to, got)
				}
			}
		}
	}
}

// testHostedOverlay publishes a port of an overlay's endpoint in mode host.
func testHostedOverlay(t *testing.T, b *base) {
	t.Helper()
	b.sluice(t, "network", "create", "over")
	b.sluice(t, append([]string{"service", "create", "over", "--network", "over"}, append(publish("8800:80"), publish("8801:84")...)...)...)
	r := b.attach(t, b.node, "over", "over")
	b.rest(t)
	for _, f := range bothFamilies() {
		for _, proto := range protocols() {
			at := netip.AddrPortFrom(b.node.Addr(f), 8800)
			for name, tt := range map[string]struct {
				from probe.Place
				to   netip.AddrPort
				sees string // "": whatever brings the answer back
			}{
				"client":                  {b.Client, at, b.Client.Addr(f).String()},
				"host":                    {b.node, at, ""},
				"host by loopback":        {b.node, netip.AddrPortFrom(loopbackOf(f), 8800), ""},
				"endpoint of a bridge":    {b.of("other"), at, ""},
				"itself":                  {r, at, ""},
				"endpoint without way in": {b.of("internal-same"), at, "none"},
			} {
				d := dial{from: probe.Client{Place: tt.from}, proto: proto, to: tt.to, who: r, port: probe.TargetPort, mark: 8801}
				if tt.sees == "none" {
					if a, err := d.from.Begin(proto, at); err != nil {
						t.Error(err)
					} else if _, err := a.Finish(time.Millisecond); err == nil {
						t.Errorf("%s %s from %s is answered", proto, tt.to, name)
					}
					continue
				}
				if got := b.dial(d); !strings.HasPrefix(got, "sees "+tt.sees) {
					t.Errorf("%s %s from %s: %s, want: sees %s", proto, tt.to, name, got, tt.sees)
				}
			}
		}
	}
}

// testHeldHosted publishes a port that a process on the host has: it keeps it, the node says
// so, and once it is free the endpoint answers.
func testHeldHosted(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "held")
	leave := occupy(t, b.node, "local")
	b.sluice(t, append([]string{"service", "create", "held", "--network", "held"}, publish("8090:80")...)...)
	s, err := b.Space("held-with-words")
	if err != nil {
		t.Fatal(err)
	}
	made, err := b.node.Try(t.Context(), "endpoint", "attach", "--service", "held", "--name", "held.0", "--netns", s.Path)
	if err != nil || made.Code != 0 || !strings.Contains(made.Stderr, "held by "+itself(t)) {
		t.Errorf("attach ends with %d, %v and says %q, want the holder named", made.Code, err, made.Stderr)
	}
	b.serve(t, s, "held.0", probe.TargetPort)
	answer(t, b.Cluster, b.node, "local", oneLook)
	if !holds(t, b.node) {
		t.Error("the node's status has no port that is held")
	}
	leave()
	answer(t, b.Cluster, b.node, "held.0", oneLook)
	until(t, "the port does not count as held", func() error { // the round that freed it says so at its end
		if holds(t, b.node) {
			return errors.New("it does")
		}
		return nil
	})
}

// testHygiene moves a port from one endpoint to another under a client that never changes its
// port: its datagrams follow at once, and a connection that has nothing to do with it goes on.
func testHygiene(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "moving")
	b.sluice(t, append([]string{"service", "create", "first", "--network", "moving"}, publish("8900:80")...)...)
	b.sluice(t, "service", "create", "later", "--network", "moving")
	b.attach(t, b.node, "first", "moving")
	b.attach(t, b.node, "later", "moving")
	b.rest(t)
	for _, f := range bothFamilies() {
		client := probe.Client{Place: b.Client, Wait: patience}
		to := netip.AddrPortFrom(b.node.Addr(f), 8900)
		flow, err := client.Open("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		bystander, err := client.Open("tcp", netip.AddrPortFrom(b.node.Addr(f), publishedBy(0, probe.TargetPort)))
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"first", "later"}
		if f == cluster.IPv6 {
			names = []string{"later", "first"}
		}
		if a, err := flow.Ask(); err != nil || a.Name != names[0]+".1" {
			t.Fatalf("%s: %+v, %v, want %s.1", f, a, err, names[0])
		}
		for _, spec := range []string{"8900:80/tcp,mode=host", "8900:80/udp,mode=host"} {
			b.sluice(t, "service", "update", names[0], "--publish-rm", spec)
			b.sluice(t, "service", "update", names[1], "--publish-add", spec)
		}
		follows(t, flow, names[1]+".1")
		if _, err := bystander.Ask(); err != nil {
			t.Errorf("%s: a connection to another port: %v", f, err)
		}
		flow.Close()
		bystander.Close()
	}
}

// follows wants the flow's next answers to be of that name within a second.
func follows(t *testing.T, flow *probe.Flow, name string) {
	t.Helper()
	const limit = time.Second
	flow.Wait = 50 * time.Millisecond
	began := time.Now()
	var last string
	for time.Since(began) < patience {
		a, err := flow.Ask()
		if last = a.Name; err == nil && a.Name == name {
			if took := time.Since(began); took > limit {
				t.Errorf("%s answers after %s, want %s", name, took, limit)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s does not answer, %q does", name, last)
}

// testWayOut has endpoints dial the world: it sees the node, and nothing of internal ones.
func testWayOut(t *testing.T, b *base) {
	t.Helper()
	world := &resident{Space: b.Client.Space, name: "world"}
	b.serve(t, b.Client, "world", cluster.World)
	var err error
	if world.sniffer, err = probe.Sniff(b.Client); err != nil {
		t.Fatal(err)
	}
	b.sniffers = append(b.sniffers, world.sniffer)
	for _, k := range kinds() {
		for _, f := range bothFamilies() {
			for _, proto := range protocols() {
				to, want := netip.AddrPortFrom(b.Client.Addr(f), cluster.World), "sees "+b.node.Addr(f).String()
				from := b.of(k.name + "-same")
				q := question{
					begin: func() (*probe.Attempt, error) { return probe.Client{Place: from, Wait: patience}.Begin(proto, to) },
					mark:  func() error { return marker(from, to, world) },
					proto: proto, family: f, who: world, port: cluster.World,
				}
				if k.name == "internal" {
					want, q.mark = "does not arrive", func() error { return marker(b.of("other"), to, world) }
				}
				if got := q.try(); got != want {
					t.Errorf("%s %s from %s: %s, want: %s", proto, to, from.name, got, want)
				}
			}
		}
	}
}

// testNoProcess looks for helpers: no port has a process of its own.
func testNoProcess(t *testing.T, b *base) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	agents := 0
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(line), b.Sluice+"\x00") { // otherwise gone meanwhile
			agents++
		}
	}
	if agents != 1 {
		t.Errorf("%d processes of the program, want the agent alone", agents)
	}
}
