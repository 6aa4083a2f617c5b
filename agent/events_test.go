package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// someEvents keeps 4 events, and had n.
func someEvents(start uint64, n int) *events {
	e := newEvents(time.Now, start, 4)
	for i := range n {
		e.add(ServiceCreated, fmt.Sprintf("service s%d", i+1), "")
	}
	return e
}

func TestEventsAfter(t *testing.T) {
	const first = 2*startSpan + 1
	for _, c := range []struct {
		name   string
		n      int    // events, in a ring of 4
		since  uint64 // 0, or an offset to first-1
		want   uint64 // first that is read, as an offset; 0: none
		reason mesh.Reason
		says   string
	}{
		{name: "none yet"},
		{name: "all", n: 3, want: 1},
		{name: "all that are kept", n: 9, want: 6},
		{name: "the rest", n: 9, since: 7, want: 8},
		{name: "just kept", n: 9, since: 5, want: 6},
		{name: "up to date", n: 9, since: 9},
		{name: "one is gone", n: 9, since: 4, reason: EventsGone, says: "the oldest event still there has revision 2000000000006"},
		{name: "never was", n: 9, since: 10, reason: EventsGone, says: "the newest event here has revision 2000000000009"},
	} {
		t.Run(c.name, func(t *testing.T) {
			since := c.since
			if since > 0 {
				since += first - 1
			}
			reader, err := someEvents(2, c.n).after(since)
			if mesh.ReasonOf(err) != c.reason || c.reason != "" && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %q that says %q", err, c.reason, c.says)
			}
			if err != nil {
				return
			}
			batch, _, err := reader.read()
			if err != nil {
				t.Fatal(err)
			}
			got := uint64(0)
			for i, e := range batch {
				if i == 0 {
					got = e.rev - first + 1
				}
				if want := fmt.Sprintf("service s%d", e.rev-first+1); e.object != want || e.rev != batch[0].rev+uint64(i) {
					t.Errorf("event %d is of %s", e.rev, e.object)
				}
			}
			if got != c.want {
				t.Errorf("begins with %d, want %d", got, c.want)
			}
		})
	}
}

// A revision of an earlier start is refused, even if it was the last one then.
func TestEventsOfEarlierStart(t *testing.T) {
	before := someEvents(7, 2)
	now := someEvents(8, 1)
	if now.newest() <= before.newest() {
		t.Errorf("revision %d does not follow %d", now.newest(), before.newest())
	}
	if _, err := now.after(before.newest()); mesh.ReasonOf(err) != EventsGone {
		t.Errorf("got %v", err)
	}
}

func TestEventsOvertakeReader(t *testing.T) {
	e := someEvents(1, 0)
	reader, err := e.after(0)
	if err != nil {
		t.Fatal(err)
	}
	_, more, err := reader.read()
	if err != nil {
		t.Fatal(err)
	}
	e.add(NodeAlive, "node n2", "")
	select {
	case <-more:
	default:
		t.Fatal("the reader is not told of the event")
	}
	if batch, _, err := reader.read(); err != nil || len(batch) != 1 || batch[0].kind != NodeAlive {
		t.Fatalf("got %v, %v", batch, err)
	}
	for range 4 { // as many as are kept
		e.add(NodeSilent, "node n2", "")
	}
	if batch, _, err := reader.read(); err != nil || len(batch) != 4 {
		t.Fatalf("got %v, %v", batch, err)
	}
	for range 5 {
		e.add(NodeSilent, "node n2", "")
	}
	if _, _, err := reader.read(); mesh.ReasonOf(err) != TooSlow {
		t.Errorf("got %v, want %s", err, TooSlow)
	}
}

func TestEventsLast(t *testing.T) {
	e := newEvents(time.Now, 1, 3)
	if _, ok := e.last(NodeLeft); ok {
		t.Error("an event of none")
	}
	for i := range 5 {
		e.add(NodeLeft, fmt.Sprintf("node n%d", i), "")
	}
	e.add(NodeAlive, "node n9", "")
	if last, ok := e.last(NodeLeft); !ok || last.object != "node n4" {
		t.Errorf("got %v, %v", last, ok)
	}
	if _, ok := e.last(ServiceDeleted); ok {
		t.Error("found what is not there")
	}
}

func TestChangeOf(t *testing.T) {
	port := func(p uint16) mesh.PublishedPort {
		return mesh.PublishedPort{Proto: mesh.TCP, Published: p, Target: 80}
	}
	service := func(ports ...mesh.PublishedPort) mesh.Record {
		return mesh.ServiceRecord(&mesh.Service{ID: "c", Name: "web", Scheduler: mesh.Maglev, Publish: ports})
	}
	endpoint := func(state mesh.EndpointState, weight int, attached ...mesh.Attachment) mesh.Record {
		return mesh.EndpointRecord(&mesh.Endpoint{ID: "d", Name: "web.1", State: state, Weight: weight, Attached: attached})
	}
	node := func(addr string, slot mesh.Slot) mesh.Record {
		return mesh.NodeRecord(&mesh.Node{ID: "a", Name: "n1", Addr: netip.MustParseAddr(addr), Slot: slot})
	}
	on := mesh.Attachment{V4: netip.MustParseAddr("198.18.0.5"), V6: netip.MustParseAddr("fd00::5")}
	for _, c := range []struct {
		name     string
		was, now mesh.Record
		kind     EventKind
		text     string
	}{
		{"created", mesh.Record{}, service(port(8080)), ServiceCreated, "publishes 8080:80/tcp"},
		{"created anew", tombstone(service()), service(), ServiceCreated, ""},
		{"changed", service(port(8080)), service(port(81)), ServiceChanged, "ports 81:80/tcp, was 8080:80/tcp"},
		{"no ports left", service(port(8080)), service(), ServiceChanged, "ports none, was 8080:80/tcp"},
		{"written again", service(port(81)), service(port(81)), "", ""},
		{"deleted", service(), tombstone(service()), ServiceDeleted, ""},
		{"deleted twice", tombstone(service()), tombstone(service()), "", ""},
		{"deleted before it was known", mesh.Record{}, tombstone(service()), "", ""},
		{"got addresses", endpoint(mesh.Ready, 1), endpoint(mesh.Ready, 1, on), EndpointChanged, "addresses 198.18.0.5 fd00::5, was none"},
		{"drains", endpoint(mesh.Ready, 1), endpoint(mesh.Draining, 1), EndpointDraining, ""},
		{"ready again", endpoint(mesh.Draining, 1), endpoint(mesh.Ready, 2), EndpointChanged, "state ready, was draining; weight 2, was 1"},
		{"joined", mesh.Record{}, node("192.0.2.1", 0), NodeJoined, "ID a, address 192.0.2.1"},
		{"claimed a slot", node("192.0.2.1", 0), node("192.0.2.1", 7), "", ""},
		{"moved", node("192.0.2.1", 7), node("192.0.2.9", 7), NodeChanged, "address 192.0.2.9, was 192.0.2.1"},
		{"its port is another's", node("192.0.2.1", 7), mesh.NodeRecord(node("192.0.2.1", 7).Node.WithHeld([]mesh.HeldPort{{Proto: mesh.TCP, Published: 80, By: "nginx (pid 7)"}})), NodeChanged, "held ports tcp/80 by nginx (pid 7), was none"},
		{"left", node("192.0.2.1", 7), tombstone(node("192.0.2.1", 7)), NodeLeft, "ID a"},
	} {
		if kind, text := changeOf(c.was, c.now); kind != c.kind || text != c.text {
			t.Errorf("%s: got %q %q, want %q %q", c.name, kind, text, c.kind, c.text)
		}
	}
}
