package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

// What is on a network that the asker is not on does not exist for it, and hides nothing from it.
func TestShadowsWhereTheyAreHeard(t *testing.T) {
	const far, near = mesh.NetworkID("b000000000000002"), mesh.NetworkID("b000000000000003")
	v := newCluster(t)
	v.put(mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 7)))
	v.node(1)
	for i, id := range []mesh.NetworkID{far, near} {
		n, err := mesh.NewNetwork(v.state.Snapshot(), mesh.NetworkWish{ID: id, Name: []string{"far", "near"}[i], Driver: mesh.Bridge})
		if err != nil {
			t.Fatal(err)
		}
		v.put(mesh.NetworkRecord(n))
	}
	for i, s := range []mesh.Service{
		{Name: "main", Stack: "shop", Aliases: []string{"web"}, Networks: []mesh.NetworkID{far}},
		{Name: "web.1.shop", Aliases: []string{"web.1.shop.near"}, Networks: []mesh.NetworkID{far}},
		{Name: "web", Stack: "shop", Networks: []mesh.NetworkID{near}, Publish: []mesh.PublishedPort{{Proto: mesh.TCP, Published: 80, Target: 80, Mode: mesh.Hosted}}},
		{Name: "proxy", Aliases: []string{"web"}, Networks: []mesh.NetworkID{near}},
	} {
		s.ID, s.Scheduler = mesh.ServiceID(fmt.Sprintf("c%015d", i)), mesh.RoundRobin
		v.put(mesh.ServiceRecord(&s))
		v4, v6 := v.state.Snapshot().Network(s.Networks[0]).Subnet4.Addr().As4(), v.state.Snapshot().Network(s.Networks[0]).Subnet6.Addr().As16()
		v4[3], v6[15] = byte(i+2), byte(i+2)
		at := mesh.Attachment{Network: s.Networks[0], V4: netip.AddrFrom4(v4), V6: netip.AddrFrom16(v6)}
		v.put(mesh.EndpointRecord(&mesh.Endpoint{
			ID: mesh.EndpointID(fmt.Sprintf("d%015d", i)), Name: s.Name + ".1", Service: s.ID, Node: "a000000000000001", State: mesh.Ready, Weight: 1, Attached: []mesh.Attachment{at},
		}))
	}
	snap := v.state.Snapshot()
	z := NewZone(FromSnapshot(snap, "a000000000000001", nil))
	addr := func(name string) string { return snap.EndpointNamed(name).Attached[0].V4.String() }
	reverse, err := dns.ReverseAddr(addr("web.1"))
	if err != nil {
		t.Fatal(err)
	}
	web, main := "found "+addr("web.1"), "found "+addr("main.1")
	for _, tt := range []struct {
		name       string
		qtype      uint16
		near, both string
	}{
		{"web.", dns.TypeA, web, main},
		{"web.shop.", dns.TypeA, web, main},
		{"tasks.web.", dns.TypeA, web, main},
		{"web.shop.near.", dns.TypeA, web, web}, // as the older is not called
		{"web.1.shop.", dns.TypeA, web, "found " + addr("web.1.shop.1")},
		{"_80._tcp.web.near.", dns.TypeSRV, "found web.1.shop.:80", "no data"},
		{"_80._tcp.web.shop.", dns.TypeSRV, "found web.1.shop.:80", "no name"},
		{reverse, dns.TypePTR, "found web.1.shop.near.", "no name"},
	} {
		for _, from := range []struct {
			asker Asker
			want  string
		}{
			{Asker{Networks: []mesh.NetworkID{near}}, tt.near},
			{Asker{Networks: []mesh.NetworkID{far, near}}, tt.both},
			{Asker{Everything: true}, tt.both},
		} {
			from.asker.Stack = "shop"
			if got := say(z.Lookup(&from.asker, dns.Question{Name: tt.name, Qtype: tt.qtype}, 0)); got != from.want {
				t.Errorf("%s from %v: %q, not %q", tt.name, from.asker.Networks, got, from.want)
			}
		}
	}
}

func askers() (all []*Asker) {
	const lan, prod = mesh.NetworkID("b000000000000000"), mesh.NetworkID("b000000000000001")
	for _, stack := range []string{"", "prod", "b", "elsewhere"} {
		for _, on := range [][]mesh.NetworkID{{lan}, {prod}, {lan, prod}} {
			all = append(all, &Asker{Stack: stack, Networks: on})
		}
	}
	return all
}

// asked is one question.
type asked struct {
	by   *Asker
	text string
}

// judge compares what was found with all who are written so.
func (*namedCluster) judge(t *rapid.T, q asked, snap *mesh.Snapshot, found []bearer, written []heard) {
	a, text := q.by, q.text
	what := fmt.Sprintf("%q asked in stack %q on %v", text, a.Stack, a.Networks)
	lost := func(h heard) bool {
		return slices.ContainsFunc(snap.Shadowed(h.key.Kind, h.key.ID), func(s mesh.Shadow) bool {
			return s.Text == text && slices.ContainsFunc(s.On, a.scope("").has)
		})
	}
	could := slices.DeleteFunc(slices.Clone(written), func(h heard) bool { return !h.by(a) })
	for _, h := range could {
		if lost(h) && !slices.ContainsFunc(written, func(o heard) bool { return o.claim < h.claim && slices.ContainsFunc(o.on, a.scope("").has) }) {
			t.Fatalf("%s: it hears nobody to whom %s lost it", what, h.owner)
		}
	}
	meant := func(b bearer) (list []heard) {
		for _, h := range could {
			if endpoint := b.rank >= endpointName; h.owner == b.host.name && !endpoint || h.owner == "endpoint "+b.host.name && endpoint {
				list = append(list, h)
			}
		}
		return list
	}
	if len(found) == 0 && slices.ContainsFunc(could, func(h heard) bool { return !lost(h) }) {
		t.Fatalf("%s is nobody", what)
	}
	for _, b := range found {
		mine := meant(b)
		if len(mine) == 0 || lost(mine[0]) {
			t.Fatalf("%s is %s, who is not called so or lost it", what, b.host.name)
		}
		for _, o := range could {
			mixed := slices.ContainsFunc(found, func(c bearer) bool { return c.host != b.host && slices.ContainsFunc(meant(c), o.equal) })
			older := o.claim < mine[0].claim && !lost(o)
			first := slices.ContainsFunc(mine, func(h heard) bool { return h.stack != "" && o.stack == "" && !h.stacked })
			if shared := slices.ContainsFunc(mine, o.sharesWith); !shared && (mixed || older && !first) {
				t.Fatalf("%s is %s, and %s is written so too", what, b.host.name, o.owner)
			}
		}
	}
}
