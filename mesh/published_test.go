package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawPort is a port or a range among few, so that they meet.
func drawPort(t *rapid.T) PublishedPort {
	p := PublishedPort{Proto: rapid.SampledFrom([]Proto{TCP, UDP}).Draw(t, "proto"), Target: 80}
	p.Published = uint16(rapid.OneOf(rapid.IntRange(1, 40), rapid.IntRange(65500, 65535), rapid.IntRange(1, 65535)).Draw(t, "published"))
	if i := rapid.IntRange(0, 3).Draw(t, "address"); i > 0 {
		p.Addr = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("127.0.0.1")}[i-1]
	}
	if rapid.Bool().Draw(t, "hosted") {
		p.Mode = Hosted
		length := rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, 65535)).Draw(t, "length")
		if last := min(65535, int(p.Published)+length); rapid.Bool().Draw(t, "ranged") && last > int(p.Published) {
			p.Target, p.Last = p.Published, uint16(last)
		}
	}
	return p
}

// heldPorts answers as a list does that is searched from its begin.
func TestHeldPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var held heldPorts
		var list []PublishedPort
		for range rapid.IntRange(0, 30).Draw(t, "ports") {
			p := drawPort(t)
			want := slices.IndexFunc(list, p.Overlaps)
			if got, overlaps := held.overlapped(p); overlaps != (want >= 0) || overlaps && got != want {
				t.Fatalf("%s among %v: %d, %v, want %d", p, list, got, overlaps, want)
			}
			held.add(p, len(list))
			list = append(list, p)
		}
	})
}

// What publishes for its own node alone is in nobody's way but that of what all nodes answer on.
func TestPortsByMode(t *testing.T) {
	at := func(addr, spec string) []PublishedPort {
		if addr != "" {
			spec = addr + ":" + spec
		}
		ports, err := ParsePublish(spec)
		if err != nil {
			t.Fatal(err)
		}
		return ports
	}
	for _, c := range []struct {
		older, younger []PublishedPort
		want           int // conflicts
	}{
		{at("", "80:80"), at("", "80:80"), 1},
		{at("", "80:80,mode=host"), at("", "80:80,mode=host"), 0},
		{at("", "80:80"), at("", "80:80,mode=host"), 1},
		{at("", "80:80,mode=host"), at("", "80:80"), 1},
		{at("", "80-90:80-90,mode=host"), at("", "85:85"), 1},
		{at("", "85:85"), at("", "80-90:80-90,mode=host"), 1},
		{at("", "85:85/udp"), at("", "80-90:80-90,mode=host"), 0},
		{at("192.0.2.1", "85:85"), at("192.0.2.2", "80-90:80-90,mode=host"), 0},
		{at("192.0.2.1", "85:85"), at("", "80-90:80-90,mode=host"), 1},
		{at("192.0.2.1", "80-90:80-90,mode=host"), at("", "80-84:81-85"), 5},
	} {
		w := newWorld(t, 1)
		a := testID[NodeID]('a', 1)
		w.write(a, ServiceRecord(testService(1, c.older...)))
		w.write(a, ServiceRecord(testService(2, c.younger...)))
		snap := w.state.Snapshot()
		if len(snap.Conflicts) != c.want || len(snap.Fronts) != len(c.older)+len(c.younger)-c.want {
			t.Errorf("%v before %v: %v", c.older, c.younger, snap.Conflicts)
		}
		for _, lost := range snap.Conflicts {
			if lost.Winner != string(testID[ServiceID]('c', 1)) || lost.Reason != PortTaken {
				t.Errorf("%v before %v: %v", c.older, c.younger, lost)
			}
		}
	}
}

// Of two endpoints of one node only one has a port; those of other nodes have it as well.
func TestHostedIsOneANode(t *testing.T) {
	w := newWorld(t, 2)
	a := testID[NodeID]('a', 1)
	bridge, err := NewDefaultBridge(w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	w.write(a, NetworkRecord(bridge))
	for i, spec := range []string{"80-90:80-90,mode=host", "85:85,mode=host"} {
		ports, err := ParsePublish(spec)
		if err != nil {
			t.Fatal(err)
		}
		w.write(a, ServiceRecord(testService(i+1, ports...)))
	}
	for n, of := range []struct{ node, service int }{{1, 2}, {1, 1}, {1, 1}, {2, 2}} {
		e := testEndpoint(n+1, of.node, of.service)
		w.write(e.Node, EndpointRecord(e))
	}
	w.settleAll()
	snap := w.state.Snapshot()
	told := func(fronts []HostedFront) string {
		var text []string
		for _, h := range fronts {
			have, _ := h.Endpoint.On(DefaultBridge)
			if h.At != have {
				t.Errorf("%s is reached at %v", h.Endpoint.Name, h.At)
			}
			text = append(text, fmt.Sprintf("%s %s %s", h.Service.Name, h.Port.Front(), h.Endpoint.Name))
		}
		return strings.Join(text, ", ")
	}
	hosted := snap.Hosted(a)
	if got := told(hosted.Held); got != "s2 tcp/85 e1" {
		t.Errorf("held: %s", got)
	}
	if got := told(hosted.Lost); got != "s1 tcp/80-90 e2, s1 tcp/80-90 e3" {
		t.Errorf("lost: %s", got)
	}
	if hosted = snap.Hosted(testID[NodeID]('a', 2)); told(hosted.Held) != "s2 tcp/85 e4" || len(hosted.Lost) != 0 {
		t.Errorf("node 2 has %s and %s", told(hosted.Held), told(hosted.Lost))
	}
	// Who leaves gets nothing new, and makes room.
	e := *snap.EndpointNamed("e1")
	e.State = Draining
	w.write(e.Node, EndpointRecord(&e))
	if hosted = w.state.Snapshot().Hosted(a); told(hosted.Held) != "s1 tcp/80-90 e2" {
		t.Errorf("held while e1 drains: %s", told(hosted.Held))
	}
}

// Connections to ports of mode host come by the same network whether there are ports of the mesh or not;
// datagrams by the one of the default route.
func TestReached(t *testing.T) {
	lan, far, closed := testID[NetworkID]('b', 1), testID[NetworkID]('b', 2), testID[NetworkID]('b', 3)
	for _, c := range []struct {
		on              []NetworkID
		streams, others NetworkID
	}{
		{[]NetworkID{lan}, lan, lan},
		{[]NetworkID{IngressNetwork, lan}, lan, IngressNetwork},
		{[]NetworkID{IngressNetwork}, IngressNetwork, IngressNetwork},
		{[]NetworkID{IngressNetwork, closed}, IngressNetwork, IngressNetwork},
		{[]NetworkID{IngressNetwork, lan, far}, far, IngressNetwork}, // by its name
		{[]NetworkID{closed}, "", ""},
	} {
		snap := &Snapshot{networks: map[NetworkID]*Network{
			IngressNetwork: {ID: IngressNetwork, Name: "ingress"},
			lan:            {ID: lan, Name: "lan", Driver: Bridge}, far: {ID: far, Name: "far", Driver: Bridge},
			closed: {ID: closed, Name: "closed", Driver: Bridge, Internal: true},
		}}
		e := &Endpoint{}
		for _, id := range c.on {
			e.Attached = append(e.Attached, Attachment{Network: id})
		}
		for _, p := range []Proto{TCP, UDP, SCTP} {
			want := c.others
			if p == TCP {
				want = c.streams
			}
			if at, ok := snap.reached(e, p); at.Network != want || ok != (want != "") {
				t.Errorf("on %v, %s ports are reached on %s, %t, want %s", c.on, p, at.Network, ok, want)
			}
		}
	}
}

func TestParseSources(t *testing.T) {
	for text, want := range map[string]Sources{
		"":                                    "",
		"192.0.2.1":                           "192.0.2.1/32",
		"2001:db8::/32,10.0.0.0/8":            "10.0.0.0/8,2001:db8::/32",
		"10.1.0.0/16,10.0.0.0/8,10.0.0.0/8":   "10.0.0.0/8",
		"0.0.0.0/0,::/0,192.0.2.0/24,fe80::1": "0.0.0.0/0,::/0",
	} {
		got, err := ParseSources(text)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
		if again, err := ParseSources(string(got)); err != nil || again != got || len(got.Prefixes()) != strings.Count(string(got), "/") {
			t.Errorf("%q again: %q, %v, %v", got, again, got.Prefixes(), err)
		}
	}
	var many []string
	for i := range sourceLimit + 1 {
		many = append(many, fmt.Sprintf("10.0.%d.1", i))
	}
	for _, text := range []string{",", "10.0.0.0/8,", " 10.0.0.0/8", "10.0.0.1/8", "::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.0/8;", strings.Join(many, ",")} {
		if got, err := ParseSources(text); ReasonOf(err) != BadPublish || got != "" {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// A port as a hostile node writes it.
func TestPublishedPortRefuses(t *testing.T) {
	good := PublishedPort{Proto: TCP, Published: 80, Target: 80, Mode: Hosted, Last: 90, Sources: "10.0.0.0/8"}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(p *PublishedPort){
		func(p *PublishedPort) { p.Mode = "ingress" },
		func(p *PublishedPort) { p.Mode = Meshed },
		func(p *PublishedPort) { p.Last = 80 },
		func(p *PublishedPort) { p.Last = 79 },
		func(p *PublishedPort) { p.Target = 81 },
		func(p *PublishedPort) { p.Sources = "10.0.0.1" },
		func(p *PublishedPort) { p.Sources = "10.0.0.0/8,10.0.0.0/8" },
		func(p *PublishedPort) { p.Sources = "10.0.0.0/8 } flush ruleset" },
	} {
		p := good
		change(&p)
		if err := p.validate(); ReasonOf(err) != BadPublish {
			t.Errorf("%s: %v", p, err)
		}
	}
	twice := testService(1, PublishedPort{Proto: TCP, Published: 85, Target: 1}, good)
	if err := twice.Validate(); ReasonOf(err) != PortTaken {
		t.Errorf("one port in two modes: %v", err)
	}
}

func BenchmarkHosted(b *testing.B) {
	for _, count := range []int{200, 20_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := newWorld(b, 1)
			a := testID[NodeID]('a', 1)
			bridge, err := NewDefaultBridge(w.state.Snapshot())
			if err != nil {
				b.Fatal(err)
			}
			w.write(a, NetworkRecord(bridge))
			for n := range max(1, count/4000) {
				s := testService(n + 1)
				for i := range min(count, 4000) {
					s.Publish = append(s.Publish, PublishedPort{Proto: UDP, Published: uint16(20_000 + 4000*n + i), Target: 53, Mode: Hosted})
				}
				w.write(a, ServiceRecord(s))
				w.write(a, EndpointRecord(testEndpoint(n+1, 1, n+1)))
			}
			w.settleAll()
			for b.Loop() {
				if held := w.state.Snapshot().Hosted(a).Held; len(held) != count {
					b.Fatal(len(held))
				}
			}
		})
	}
}
