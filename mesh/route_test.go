package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func routes(texts ...string) []Route {
	var list []Route
	for _, text := range texts {
		list = append(list, Route{netip.MustParsePrefix(text), "route dev eth0"})
	}
	return list
}

// lead writes what a node says of its routes.
func (w *world) lead(node int, texts ...string) {
	w.t.Helper()
	snap := w.state.Snapshot()
	n := snap.Node(testID[NodeID]('a', node))
	w.write(n.ID, NodeRecord(n.WithRoutes(snap.ReportedRoutes(routes(texts...)))))
}

func TestNetworksAvoidRoutes(t *testing.T) {
	w := newWorld(t, 2)
	w.lead(2, "10.192.0.0/11", "10.7.3.0/24", "10.8.0.0/16", "fd00::/8")
	for i := range 30 {
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i+1), fmt.Sprintf("n%d", i), netip.Prefix{})
		if err != nil {
			t.Fatal(err)
		}
		if n.Subnet4.Overlaps(netip.MustParsePrefix("10.192.0.0/11")) {
			t.Errorf("%s is chosen", n.Subnet4)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	}
	for subnet, want := range map[string]Reason{
		"10.7.0.0/16": SubnetTaken, // the route leads into it
		"10.8.0.0/16": SubnetTaken,
		"10.8.9.0/24": "", // asked for, within more that is led elsewhere
		"10.9.0.0/16": "",
	} {
		_, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 99), "given", netip.MustParsePrefix(subnet))
		if ReasonOf(err) != want {
			t.Errorf("%s: %v", subnet, err)
		}
	}
	w.lead(2)
	if _, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 99), "given", netip.MustParsePrefix("10.8.0.0/16")); err != nil {
		t.Errorf("the routes are gone: %v", err)
	}
}

// A route to the whole pool and more, as many companies have one, keeps nobody from making networks:
// the subnets that it alone covers come last.
func TestPoolWithinRoute(t *testing.T) {
	w := newWorld(t, 2)
	ingress := *w.state.Snapshot().Network(IngressNetwork)
	ingress.Pool = netip.MustParsePrefix("10.192.0.0/18") // four subnets
	w.write(testID[NodeID]('a', 1), NetworkRecord(&ingress))
	w.lead(1, "10.0.0.0/8", "10.192.16.0/21", "10.192.32.0/20")
	for i := range 2 {
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i+1), fmt.Sprintf("n%d", i), netip.Prefix{})
		if err != nil {
			t.Fatal(err)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	}
	_, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 9), "n9", netip.Prefix{})
	exhausted(t, err, "networks have 2, 2 are where", `node "n1" has a route to 10.192.`, "(route dev eth0)", "0 are free")
}

func TestRouteConflicts(t *testing.T) {
	w, blue := fixedWorld(t)
	w.grow(blue.ID, "10.1.0.0/20")
	for route, want := range map[string]string{
		"10.0.0.0/8": "", "10.0.0.0/24": "10.0.0.0/24", "10.0.0.9/32": "10.0.0.0/24", "10.1.15.0/24": "10.1.0.0/20",
		"10.1.16.0/24": "", "198.18.0.0/16": "198.18.0.0/16", "9.0.0.0/8": "", blue.block(1).V6.String(): blue.Subnet6.String(),
	} {
		w.lead(2, route)
		got := w.state.Snapshot().RouteConflicts()
		if want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || got[0].Subnet.String() != want || got[0].Node.Name != "n2" || got[0].Route.Prefix.String() != route {
			t.Errorf("%s: %+v instead of %s", route, got, want)
		}
	}
}

// Whatever a host says: its record is valid, says the same whatever the order, and names all that
// leads into a network as long as there is room.
func TestReportedRoutes(t *testing.T) {
	w, blue := fixedWorld(t)
	snap := w.state.Snapshot()
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Route {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 3).Draw(t, "b")), rapid.Byte().Draw(t, "c"), rapid.Byte().Draw(t, "d")}), rapid.IntRange(0, 32).Draw(t, "bits"))
			return Route{p.Masked(), rapid.SampledFrom([]string{"route dev eth0", "route dev eth1", "", "\n"}).Draw(t, "by")}
		}), 0, 200).Draw(t, "routes")
		got := snap.ReportedRoutes(all)
		if again := snap.ReportedRoutes(shuffled(t, all)); !slices.Equal(got, again) {
			t.Fatalf("%v and %v", got, again)
		}
		n := testNode(1).WithRoutes(got)
		if err := n.Validate(); err != nil {
			t.Fatalf("%v: %v", got, err)
		}
		for _, r := range all {
			covers := func(have Route) bool {
				return have.Prefix.Contains(r.Prefix.Addr()) && have.Prefix.Bits() <= r.Prefix.Bits()
			}
			if r.valid() && blue.Subnet4.Overlaps(r.Prefix) && len(got) < routeLimit && !slices.ContainsFunc(got, covers) {
				t.Fatalf("%v does not name %s", got, r.Prefix)
			}
		}
	})
	for name, list := range map[string][]Route{
		"everything": {{netip.MustParsePrefix("0.0.0.0/0"), "route"}}, "host bits": {{netip.MustParsePrefix("10.0.0.1/8"), "route"}},
		"twice": {{netip.MustParsePrefix("10.0.0.0/8"), "a"}, {netip.MustParsePrefix("10.0.0.0/8"), "b"}}, "nobody": {{netip.MustParsePrefix("10.0.0.0/8"), ""}},
		"a control character": {{netip.MustParsePrefix("10.0.0.0/8"), "\x1b[2J"}},
	} {
		if err := testNode(1).WithRoutes(list).Validate(); ReasonOf(err) != BadRecord {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkReportedRoutes(b *testing.B) {
	snap := manyNetworks(b, 100).Snapshot()
	all := make([]Route, 100_000)
	for i := range all {
		all[i] = Route{nth4(netip.MustParsePrefix("64.0.0.0/2"), 24, i), "route via 192.0.2.1 dev eth0"}
	}
	for b.Loop() {
		snap.ReportedRoutes(all)
	}
}
