package ingress

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// fronts are one with affinity, of a backend that drains, one of half its weight and one
// more, and the same without.
func affineFronts(s mesh.Scheduler) []Front {
	var backends []Backend
	for i, weight := range []int{0, 1, 2} {
		backends = append(backends, Backend{
			V4: netip.MustParseAddr(fmt.Sprintf("198.18.0.%d", i+1)), V6: netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1)), Weight: weight,
		})
	}
	front := func(id mesh.ServiceID, mark uint32, affinity time.Duration) Front {
		return Front{
			Front: mesh.Front{
				Port:    mesh.PublishedPort{Proto: mesh.TCP, Published: uint16(8000 + mark), Target: 80},
				Service: &mesh.Service{ID: id, Scheduler: s, Affinity: affinity},
			},
			Mark: mark, At4: plan.Uplink4(2).Addr(), At6: plan.Uplink6(2).Addr(), Backends: backends,
		}
	}
	return []Front{front("a", 1, 90*time.Second), front("b", 2, 0), front("c", 3, 90*time.Second)}
}

// Whatever is drawn or remembered leads to a backend of the same front that takes new
// connections, and a number is a slot's or a backend's, never both.
func TestAffinityLeadsToBackends(t *testing.T) {
	for _, s := range mesh.Schedulers() {
		var sbox plan.Sandbox
		NFT{}.Balance(affineFronts(s), Site{Sandbox: &sbox, Clients: `"uplink"`})
		set := map[string]map[string]string{}
		for _, m := range sbox.Table("inet").Sets {
			set[m.Name] = map[string]string{}
			for _, e := range m.Elements {
				set[m.Name][e.Key] = e.Value
			}
		}
		for _, mark := range []string{"0x1", "0x3"} {
			way, draw := set["ways"][mark], set["draws"][mark]
			if way != plan.HexMark(90|byAffinity) || draw != set["ways"]["0x2"] {
				t.Errorf("%s: way %s, draws %s; the front without has %s", s, way, draw, set["ways"]["0x2"])
			}
		}
		shares := map[string]int{}
		for key, id := range set["ids"] {
			mark, _, _ := strings.Cut(key, " . ")
			shares[mark+" "+set["slots4"][plan.Join(mark, id)]+" "+set["slots6"][plan.Join(mark, id)]]++
		}
		for _, mark := range []string{"0x1", "0x3"} {
			one, two := shares[mark+" 198.18.0.2 . 80 fd00::2 . 80"], shares[mark+" 198.18.0.3 . 80 fd00::3 . 80"]
			if one == 0 || two < one || len(shares) != 4 {
				t.Errorf("%s: slots lead to %v", s, shares)
			}
		}
		for key, to := range set["slots4"] {
			mark, number, _ := strings.Cut(key, " . ")
			if slot := len(number) < len("0xc6120001"); slot != (mark == "0x2") || strings.HasPrefix(to, "198.18.0.1 ") {
				t.Errorf("%s: slots4 has %s -> %s", s, key, to)
			}
		}
	}
}

// Rules depend on the times alone, and the usual one is always there.
func TestAffinityChains(t *testing.T) {
	rules := func(fronts []Front) string {
		var sbox plan.Sandbox
		NFT{}.Balance(fronts, Site{Sandbox: &sbox, Clients: `"uplink"`})
		return sbox.Table("inet").Skeleton()
	}
	all := affineFronts(mesh.RoundRobin)
	all[0].Service.Affinity, all[2].Service.Affinity = mesh.AffinityDefault, 0
	if rules(all) != rules(nil) {
		t.Error("the usual time has rules of its own")
	}
	some := affineFronts(mesh.RoundRobin)
	if rules(some) != rules(some[2:]) || rules(some) == rules(nil) {
		t.Error("a time has not the same rules for one service and for two")
	}
	got := affinities(append(all, some...))
	if want := []time.Duration{90 * time.Second, mesh.AffinityDefault}; !slices.Equal(got, want) {
		t.Errorf("times %v, want %v", got, want)
	}
}

// However many times there are, their chains are bounded, and none is shortened.
func TestAffinityTimesAreBounded(t *testing.T) {
	var fronts []Front
	for n := range 1000 {
		fronts = append(fronts, Front{Front: mesh.Front{Service: &mesh.Service{Affinity: time.Duration(n+1) * time.Minute}}})
	}
	times := affinities(fronts)
	if len(times) > timesLimit || len(times) < timesLimit/2 {
		t.Errorf("%d times have chains, want up to %d", len(times), timesLimit)
	}
	for _, f := range fronts {
		if got := roundedUp(f.Service.Affinity, times); got < f.Service.Affinity {
			t.Fatalf("%s became %s", f.Service.Affinity, got)
		}
	}
	if got := roundedUp(2*time.Minute, affinities(fronts[:4])); got != 2*time.Minute {
		t.Errorf("2 minutes became %s where there are few", got)
	}
}
