package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

func compile(w *scene.World, local mesh.Local) *plan.Plan {
	var p plan.Plan
	local.ID = scene.NodeID(1)
	snap := w.State.Snapshot()
	Compile(local, snap, snap.Hosted(local.ID), &p)
	p.Sort()
	return &p
}

func elements(p *plan.Plan, set string) []plan.Element {
	return p.Host().Table("inet").Set(set).Elements
}

// Networks, endpoints and ports are elements: the rules are those of a node that has none.
func TestRulesDoNotGrow(t *testing.T) {
	empty := scene.New(t, 1)
	want := compile(empty, mesh.Local{}).Host().Table("inet").Skeleton()
	for name, build := range scene.All() {
		w := scene.New(t, 3)
		build(w)
		if got := compile(w, mesh.Local{}).Host().Table("inet").Skeleton(); got != want {
			t.Errorf("%s: rules differ from\n%s\ngot\n%s", name, want, got)
		}
	}
}

func TestHeldPorts(t *testing.T) {
	at := scene.OwnPort(8081, 80, mesh.TCP)
	at.Addr = netip.MustParseAddr("192.0.2.11")
	span := scene.OwnPort(9000, 9000, mesh.UDP)
	span.Last, span.Sources = 9100, "192.0.2.0/24"
	w := scene.New(t, 1)
	w.DefaultBridge()
	w.Endpoint(w.Service("web", nil, scene.OwnPort(8080, 80, mesh.TCP), at, span), "web.1", 1)
	held := func(addr string, proto mesh.Proto, port uint16) mesh.Local {
		h := mesh.HeldPort{Proto: proto, Published: port, By: "nginx (pid 7)"}
		if addr != "" {
			h.Addr = netip.MustParseAddr(addr)
		}
		return mesh.Local{Held: []mesh.HeldPort{h}}
	}
	for name, c := range map[string]struct {
		local mesh.Local
		set   string // that loses its element
		left  string
	}{
		"on all":           {held("", mesh.TCP, 8080), plan.Hosted4, "endpoint web.1 port tcp/8080"},
		"on one address":   {held("192.0.2.11", mesh.TCP, 8081), plan.HostedAt4, "endpoint web.1 port 192.0.2.11 tcp/8081"},
		"inside a range":   {held("", mesh.UDP, 9050), plan.HostedRange4, "endpoint web.1 port udp/9000-9100"},
		"its last":         {held("", mesh.UDP, 9100), plan.HostedRange4, "endpoint web.1 port udp/9000-9100"},
		"another protocol": {held("", mesh.UDP, 8080), "", ""},
		"another address":  {held("192.0.2.12", mesh.TCP, 8081), "", ""},
	} {
		p := compile(w, c.local)
		for _, set := range []string{plan.Hosted4, plan.HostedAt4, plan.HostedRange4} {
			if got, want := len(elements(p, set)) == 0, set == c.set; got != want {
				t.Errorf("%s: set %s is empty: %v, want %v", name, set, got, want)
			}
		}
		// A filter before a port that somebody else has would be one on his traffic.
		if got, want := len(elements(p, "sourced")) == 0, c.set == plan.HostedRange4; got != want {
			t.Errorf("%s: no source is asked for: %v, want %v", name, got, want)
		}
		if told := slices.ContainsFunc(p.Left, func(l plan.Left) bool { return l.Reason == plan.PortHeld && l.Object == c.left }); told != (c.left != "") {
			t.Errorf("%s: left out %v, want %q", name, p.Left, c.left)
		}
	}
}

// An endpoint that drains gets nothing new, and nobody's packets are filtered for it.
func TestDrainingIsNotCaptured(t *testing.T) {
	w := scene.New(t, 1)
	w.DefaultBridge()
	e := w.Endpoint(w.Service("web", nil, scene.OwnPort(8080, 80, mesh.TCP)), "web.1", 1)
	if n := len(elements(compile(w, mesh.Local{}), plan.Hosted4)); n != 1 {
		t.Fatalf("%d ports answer, want 1", n)
	}
	have, _ := w.State.Get(mesh.EndpointRecord(e).Key())
	next := *have.Endpoint
	next.State = mesh.Draining
	w.Write(next.Node, mesh.EndpointRecord(&next))
	p := compile(w, mesh.Local{})
	if n := len(elements(p, plan.Hosted4)) + len(elements(p, plan.Hosted6)); n != 0 {
		t.Errorf("%d ports of a draining endpoint answer", n)
	}
	if len(elements(p, "bridged4")) != 1 {
		t.Error("its interface is gone while its connections end")
	}
}

// Of two networks whose bridges would have one name one is built, and the other named.
func TestOneDeviceName(t *testing.T) {
	w := scene.New(t, 1)
	networks := make([]mesh.NetworkID, 2)
	for i := range networks {
		wish := mesh.NetworkWish{ID: mesh.NetworkID(fmt.Sprintf("%d000000000000002", i+1)), Name: fmt.Sprintf("net%d", i), Driver: mesh.Bridge}
		n, err := mesh.NewNetwork(w.State.Snapshot(), wish)
		if err != nil {
			t.Fatal(err)
		}
		networks[i] = n.ID
		w.Write(scene.NodeID(1), mesh.NetworkRecord(n))
	}
	w.Endpoint(w.Service("web", networks, scene.OwnPort(8080, 80, mesh.TCP)), "web.1", 1)
	p := compile(w, mesh.Local{})
	var made []string
	for _, s := range p.Sandboxes {
		for _, l := range s.Links {
			if l.Kind == plan.LinkBridge {
				made = append(made, s.Name)
			}
		}
	}
	if len(made) != 1 || len(elements(p, "bridged4")) != 1 {
		t.Errorf("bridges %v, endpoints %v, want one of each", made, elements(p, "bridged4"))
	}
	if len(p.Left) != 1 || p.Left[0].Reason != plan.NameTaken || p.Left[0].Object != "network net1" {
		t.Errorf("left out %v, want network net1", p.Left)
	}
}

// Nothing from elsewhere may be sent to an endpoint's address, but where that was asked for.
func TestRoutedIsOpenAlone(t *testing.T) {
	w := scene.New(t, 1)
	plain, open := w.Bridge("plain", mesh.NetworkWish{}), w.Bridge("open", mesh.NetworkWish{Routed: true})
	w.Endpoint(w.Service("a", []mesh.NetworkID{plain}), "a.1", 1)
	w.Endpoint(w.Service("b", []mesh.NetworkID{open}), "b.1", 1)
	p, link := compile(w, mesh.Local{}), plan.BridgeLink(string(open))
	for _, set := range []string{"bridged4", "bridged6"} {
		if len(elements(p, set)) != 1 {
			t.Errorf("set %s: %v, want the address of a.1 alone", set, elements(p, set))
		}
	}
	if got := elements(p, "routed_bridges"); len(got) != 1 || got[0].Key != link {
		t.Errorf("routed bridges %v, want %s", got, link)
	}
	for _, e := range elements(p, "bridge_sources4") {
		if strings.HasPrefix(e.Key, link) {
			return
		}
	}
	t.Error("an endpoint of the routed network may have any source")
}

// Datagrams of what is open to a draining endpoint go on, to the port that was led to or, of a
// range, to any; those to a ready one need nobody's word.
func TestDrainingFinishes(t *testing.T) {
	span := scene.OwnPort(9000, 9000, mesh.UDP)
	span.Last = 9100
	w := scene.New(t, 1)
	w.DefaultBridge()
	web := w.Service("web", nil, scene.OwnPort(8080, 80, mesh.TCP), scene.OwnPort(5353, 53, mesh.UDP), span)
	ready := w.Endpoint(web, "web.1", 1)
	if flows := compile(w, mesh.Local{}).Host().Flows; len(flows) > 0 {
		t.Errorf("a ready endpoint: %v", flows)
	}
	next := *w.State.Snapshot().EndpointNamed(ready.Name)
	next.State = mesh.Draining
	w.Write(next.Node, mesh.EndpointRecord(&next))
	at := next.Attached[0]
	want := []plan.Flow{{Addr: at.V4}, {Addr: at.V4, Port: 53}, {Addr: at.V6}, {Addr: at.V6, Port: 53}}
	if flows := compile(w, mesh.Local{}).Host().Flows; !slices.Equal(flows, want) {
		t.Errorf("a draining endpoint: %v, want %v", flows, want)
	}
}

// A node that lost its block of an overlay, or has none yet, leads nobody to an address of it.
func TestNoBlockIsNotCaptured(t *testing.T) {
	w := scene.New(t, 1)
	w.Endpoint(w.Service("web", []mesh.NetworkID{w.Network("blue")}, scene.OwnPort(8080, 80, mesh.TCP)), "web.1", 1)
	if n := len(elements(compile(w, mesh.Local{}), plan.Hosted4)); n != 1 {
		t.Fatalf("%d ports answer, want 1", n)
	}
	node := *w.State.Snapshot().Node(scene.NodeID(1))
	node.Blocks = nil
	w.Write(node.ID, mesh.NodeRecord(&node))
	p := compile(w, mesh.Local{})
	for _, set := range []string{plan.Hosted4, plan.Hosted6, "entered4", "entered6"} {
		if len(elements(p, set)) > 0 {
			t.Errorf("%s: %v", set, elements(p, set))
		}
	}
	if !slices.ContainsFunc(p.Left, func(l plan.Left) bool {
		return l.Reason == plan.NotSettled && l.Object == "endpoint web.1 port tcp/8080"
	}) {
		t.Errorf("left out %v", p.Left)
	}
}
