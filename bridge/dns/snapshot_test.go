package dns

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

// village is one overlay, one bridge and one internal bridge, each with endpoints of two nodes.
func village(t *testing.T) *mesh.Snapshot {
	t.Helper()
	v := newCluster(t)
	put := v.put
	const over, flat, cave = "b000000000000001", "b000000000000002", "b000000000000003"
	put(mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 0x1234567890)))
	put(mesh.NetworkRecord(&mesh.Network{
		ID: over, Name: "over", Subnet4: netip.MustParsePrefix("10.192.0.0/20"), Subnet6: netip.MustParsePrefix("fd01::/48"), Bits4: 26, VNI: 1<<20 + 2,
	}))
	put(mesh.NetworkRecord(&mesh.Network{
		ID: flat, Name: "flat", Driver: mesh.Bridge, Subnet4: netip.MustParsePrefix("172.30.0.0/16"), Subnet6: netip.MustParsePrefix("fd02::/64"), Gateway4: ip("172.30.0.1"), Gateway6: ip("fd02::1"),
	}))
	put(mesh.NetworkRecord(&mesh.Network{
		ID: cave, Name: "cave", Driver: mesh.Bridge, Internal: true, Subnet4: netip.MustParsePrefix("172.31.0.0/16"), Subnet6: netip.MustParsePrefix("fd03::/64"), Gateway4: ip("172.31.0.1"), Gateway6: ip("fd03::1"),
	}))
	put(mesh.ServiceRecord(&mesh.Service{
		ID: "c000000000000001", Name: "web", Stack: "shop", Aliases: []string{"www"}, Networks: []mesh.NetworkID{over, flat}, Scheduler: mesh.RoundRobin,
		Publish: []mesh.PublishedPort{{Proto: mesh.TCP, Published: 8000, Target: 8000, Last: 8010, Mode: mesh.Hosted}},
		Virtual: []mesh.Attachment{{Network: over, V4: ip("10.192.14.1"), V6: ip("fd01:0:0:3f::2")}},
	}))
	put(mesh.ServiceRecord(&mesh.Service{
		ID: "c000000000000002", Name: "rr", Mode: mesh.RoundRobinDNS, Networks: []mesh.NetworkID{over}, Scheduler: mesh.RoundRobin,
		Virtual: []mesh.Attachment{{Network: over, V4: ip("10.192.14.2"), V6: ip("fd01::e:2")}},
	}))
	put(mesh.ServiceRecord(&mesh.Service{ID: "c000000000000003", Name: "deep", Networks: []mesh.NetworkID{cave}, Scheduler: mesh.RoundRobin}))
	endpoint := func(id mesh.EndpointID, name string, s mesh.ServiceID, node mesh.NodeID, at ...mesh.Attachment) {
		e := &mesh.Endpoint{ID: id, Name: name, Service: s, Node: node, State: mesh.Ready, Weight: 1, Attached: at}
		if name == "web.1" {
			e.Joined = []mesh.Joined{{Network: flat, Aliases: []string{"first"}}}
		}
		put(mesh.EndpointRecord(e))
	}
	on := func(id mesh.NetworkID, v4, v6 string) mesh.Attachment {
		return mesh.Attachment{Network: id, V4: ip(v4), V6: ip(v6)}
	}
	endpoint("d000000000000001", "web.1", "c000000000000001", "a000000000000001", on(over, "10.192.0.2", "fd01::2"), on(flat, "172.30.0.2", "fd02::2"))
	endpoint("d000000000000002", "web.2", "c000000000000001", "a000000000000002", on(over, "10.192.0.66", "fd01:0:0:1::2"), on(flat, "172.30.0.2", "fd02::2"))
	endpoint("d000000000000003", "rr.1", "c000000000000002", "a000000000000002", on(over, "10.192.0.67", "fd01:0:0:1::3"))
	endpoint("d000000000000004", "deep.1", "c000000000000003", "a000000000000001", on(cave, "172.31.0.3", "fd03::3"))
	v.node(1, block(over, "10.192.0.0/26", "fd01::/64"))
	v.node(2, block(over, "10.192.0.64/26", "fd01:0:0:1::/64"))
	v.node(3)
	return v.state.Snapshot()
}

func TestFromSnapshotOfAllKinds(t *testing.T) {
	snap := village(t)
	const over, flat, cave = mesh.NetworkID("b000000000000001"), mesh.NetworkID("b000000000000002"), mesh.NetworkID("b000000000000003")
	first := NewZone(FromSnapshot(snap, "a000000000000001", nil))
	third := NewZone(FromSnapshot(snap, "a000000000000003", nil)) // has no endpoint
	onOver, onFlat := Asker{Networks: []mesh.NetworkID{over}, Stack: "shop"}, Asker{Networks: []mesh.NetworkID{flat}, Stack: "shop"}
	onBoth, other := Asker{Networks: []mesh.NetworkID{over, flat}, Stack: "shop"}, Asker{Networks: []mesh.NetworkID{over}, Stack: "blog"}
	for _, tt := range []struct {
		why   string
		zone  *Zone
		asker Asker
		name  string
		qtype uint16
		want  string
	}{
		{"a virtual address on an overlay", first, onOver, "web", dns.TypeA, "found 10.192.14.1"},
		{"of both families", first, onOver, "web", dns.TypeAAAA, "found fd01:0:0:3f::2"},
		{"by an alias too", first, onOver, "www", dns.TypeA, "found 10.192.14.1"},
		{"a bridge: the endpoints of this node alone", first, onFlat, "web", dns.TypeA, "found 172.30.0.2"},
		{"on both: what is there on each", first, onBoth, "web", dns.TypeA, "found 10.192.14.1 172.30.0.2"},
		{"tasks are endpoints", first, onOver, "tasks.web", dns.TypeA, "found 10.192.0.2 10.192.0.66"},
		{"of this node on a bridge", first, onFlat, "tasks.web", dns.TypeA, "found 172.30.0.2"},
		{"an endpoint of another node does not exist on a bridge", first, onFlat, "web.2", dns.TypeA, "not ours"},
		{"and does on the overlay", first, onBoth, "web.2", dns.TypeA, "found 10.192.0.66"},
		{"a node without endpoints: the name exists", third, onFlat, "web", dns.TypeA, "no data"},
		{"an endpoint's alias on its network", first, onFlat, "first", dns.TypeA, "found 172.30.0.2"},
		{"and on no other", first, onOver, "first", dns.TypeA, "not ours"},
		{"dnsrr: endpoints, whatever address was kept for it", first, onOver, "rr", dns.TypeA, "found 10.192.0.67"},
		{"another stack's short name", first, other, "web", dns.TypeA, "not ours"},
		{"by its stack", first, other, "web.shop", dns.TypeA, "found 10.192.14.1"},
		{"a range: the first of it", first, onOver, "_8000._tcp.web", dns.TypeSRV, "found web.:8000"},
		{"in it", first, onOver, "_8005._tcp.web", dns.TypeSRV, "found web.:8005"},
		{"the last of it", first, onOver, "_8010._tcp.web", dns.TypeSRV, "found web.:8010"},
		{"beyond", first, onOver, "_8011._tcp.web", dns.TypeSRV, "no name"},
		{"not as it is written", first, onOver, "_08005._tcp.web", dns.TypeSRV, "no name"},
		{"whose the virtual address is", first, onOver, "1.14.192.10.in-addr.arpa", dns.TypePTR, "found web.shop.over."},
		{"an address on a bridge is this node's", first, onFlat, "2.0.30.172.in-addr.arpa", dns.TypePTR, "found web.1.shop.flat."},
	} {
		if got := say(tt.zone.Lookup(&tt.asker, dns.Question{Name: tt.name + ".", Qtype: tt.qtype}, 0)); got != tt.want {
			t.Errorf("%s: %s: %s, want %s", tt.why, tt.name, got, tt.want)
		}
	}
	if first.MayForward(&Asker{Networks: []mesh.NetworkID{cave}}) {
		t.Error("who is on an internal bridge only may ask the world")
	}
}

func TestAskerOf(t *testing.T) {
	snap := village(t)
	got := map[string]Asker{}
	for _, e := range snap.Endpoints {
		got[e.Name] = AskerOf(snap, e)
	}
	over, flat, cave := mesh.NetworkID("b000000000000001"), mesh.NetworkID("b000000000000002"), mesh.NetworkID("b000000000000003")
	want := map[string]Asker{
		"web.1": {Networks: []mesh.NetworkID{over, flat}, Stack: "shop"}, "web.2": {Networks: []mesh.NetworkID{over, flat}, Stack: "shop"},
		"rr.1": {Networks: []mesh.NetworkID{over}}, "deep.1": {Networks: []mesh.NetworkID{cave}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a record says before its node has settled is nobody's address, or another's: the balancer
// does not use it, and no name gives it.
func TestNamesGiveWhatIsReachedAlone(t *testing.T) {
	v := street(t)
	bank, shop := v.service(1, "bank"), v.service(2, "shop")
	v.endpoint(1, "bank.1", bank, 1, "10.9.0.5", "fd09::6")
	v.endpoint(2, "shop.1", shop, 2, "10.9.0.5", "fd09::6")        // of the block that its node lost
	v.endpoint(3, "shop.2", shop, 1, "203.0.113.9", "2001:db8::9") // of no network
	for _, tt := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"bank", dns.TypeA, "found 10.9.0.5"},
		{"shop", dns.TypeA, "no data"},
		{"tasks.shop", dns.TypeAAAA, "no data"},
		{"shop.1", dns.TypeA, "not ours"},
		{"shop.2", dns.TypeA, "not ours"},
		{"5.0.9.10.in-addr.arpa", dns.TypePTR, "found bank.1.back."},
	} {
		if got := v.asked(tt.name, tt.qtype); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestServiceNamesLeaveOutNodesThatAreGone(t *testing.T) {
	snap := village(t)
	z := NewZone(FromSnapshot(snap, "a000000000000001", map[mesh.NodeID]bool{"a000000000000002": true}))
	for name, want := range map[string]string{
		"rr": "no data", "tasks.web": "found 10.192.0.2", "web": "found 10.192.14.1", "web.2": "found 10.192.0.66",
	} {
		a := Asker{Networks: []mesh.NetworkID{"b000000000000001"}, Stack: "shop"}
		if got := say(z.Lookup(&a, dns.Question{Name: name + ".", Qtype: dns.TypeA}, 0)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// DNS does not tell cases apart, so names that differ in nothing else are one, the older claim's.
func TestNamesInOneCase(t *testing.T) {
	v := street(t)
	bank, other := v.service(1, "bank"), v.service(2, "Bank")
	v.endpoint(1, "x.1", bank, 1, "10.9.0.5", "fd09::6")
	v.endpoint(2, "X.1", other, 1, "10.9.0.6", "fd09::7")
	snap := v.state.Snapshot()
	if snap.ServiceNamed("BANK").ID != bank.ID || snap.EndpointNamed("X.1").Service != bank.ID {
		t.Errorf("BANK is %v, conflicts are %v", snap.ServiceNamed("BANK"), snap.Conflicts)
	}
	for _, name := range []string{"bank", "Bank", "tasks.BANK", "x.1", "X.1"} {
		if got := v.asked(name, dns.TypeA); got != "found 10.9.0.5" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// Who lost a name is no less behind the name of its service, and what has the ID of another kind's
// loser lost nothing.
func TestNamesOfLosers(t *testing.T) {
	v := street(t)
	bank := v.service(1, "bank")
	v.endpoint(1, "x", bank, 1, "10.9.0.5", "fd09::6")
	v.endpoint(2, "x", bank, 1, "10.9.0.6", "fd09::7")
	namesake := &mesh.Endpoint{ID: mesh.EndpointID(bank.ID), Name: "x", Service: bank.ID, Node: "a000000000000002", State: mesh.Ready, Weight: 1}
	v.put(mesh.EndpointRecord(namesake))
	for name, want := range map[string]string{"bank": "found 10.9.0.5 10.9.0.6", "x": "found 10.9.0.5"} {
		if got := v.asked(name, dns.TypeA); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := v.asked("6.0.9.10.in-addr.arpa", dns.TypePTR); got != "no name" {
		t.Errorf("the loser's address is %s", got)
	}
}
