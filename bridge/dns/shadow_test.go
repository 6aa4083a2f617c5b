package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

// Whatever names are taken, each is found by whoever can see it, written in whatever way: nobody
// who came later is found in its place.
func TestNoNameShadows(t *testing.T) {
	refusals := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newNamedCluster(t, true)
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			if !w.step(t, i) {
				refusals++
			}
		}
		w.check(t)
		if found := w.state.Snapshot().Conflicts; len(found) > 0 {
			t.Fatalf("nobody was refused, and there is %v", found)
		}
	})
	if refusals == 0 {
		t.Error("nothing was refused")
	}
}

type namedCluster struct {
	t       *rapid.T
	state   mesh.State
	time    uint64
	refuses bool
}

func newNamedCluster(t *rapid.T, refuses bool) *namedCluster {
	w := &namedCluster{t: t, refuses: refuses}
	w.put(mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 7)))
	w.put(mesh.NodeRecord(&mesh.Node{ID: "a000000000000001", Name: "n1", Addr: ip("192.0.2.1"), VXLANPort: 4789, MTU: 1500}))
	for i, name := range []string{"lan", "prod"} {
		n, err := mesh.NewNetwork(w.state.Snapshot(), mesh.NetworkWish{ID: mesh.NetworkID(fmt.Sprintf("b%015x", i)), Name: name, Driver: mesh.Bridge})
		if err != nil {
			t.Fatal(err)
		}
		w.put(mesh.NetworkRecord(n))
	}
	return w
}

func (w *namedCluster) put(r mesh.Record) {
	w.time++
	r.Version, r.Claim = mesh.Version{Time: w.time, Writer: "a000000000000001"}, w.time
	if have, ok := w.state.Get(r.Key()); ok {
		r.Claim = have.Claim
	}
	if err := r.Validate(); err != nil {
		w.t.Fatal(err)
	}
	w.state.Merge(r)
}

func drawName(t *rapid.T, what string) string {
	return rapid.SampledFrom([]string{"web", "Web", "db", "a", "a.b", "b", "tasks.web", "tasks.db", "tasks.a.b", "web.prod", "web.lan", "tasks.web.prod", "a.b.prod", "web.b", "web.b.lan", "b.lan", "web.prod.lan"}).Draw(t, what)
}

func drawNetworks(t *rapid.T) []mesh.NetworkID {
	return rapid.SampledFrom([][]mesh.NetworkID{{"b000000000000000"}, {"b000000000000001"}, {"b000000000000000", "b000000000000001"}}).Draw(t, "networks")
}

// step makes or changes one service or endpoint, as the agent does; false where it is refused.
func (w *namedCluster) step(t *rapid.T, i int) bool {
	snap := w.state.Snapshot()
	if len(snap.Services) > 0 && rapid.Bool().Draw(t, "endpoint") {
		e := &mesh.Endpoint{
			ID: mesh.EndpointID(fmt.Sprintf("e%015x", i)), Name: drawName(t, "name"), Service: rapid.SampledFrom(snap.Services).Draw(t, "of").ID,
			Node: "a000000000000001", State: mesh.Ready, Weight: 1,
		}
		if rapid.Bool().Draw(t, "alias") {
			e.Joined = []mesh.Joined{{Network: drawNetworks(t)[0], Aliases: []string{drawName(t, "alias")}}}
		}
		if snap.EndpointNamed(e.Name) != nil || w.refuses && snap.CheckEndpointNames(e, nil) != nil {
			return false
		}
		w.put(mesh.EndpointRecord(e))
		return true
	}
	s := &mesh.Service{ID: mesh.ServiceID(fmt.Sprintf("c%015x", i)), Name: drawName(t, "name"), Scheduler: mesh.RoundRobin}
	var have *mesh.Service
	if len(snap.Services) > 0 && rapid.Bool().Draw(t, "update") {
		have = rapid.SampledFrom(snap.Services).Draw(t, "which")
		s.ID, s.Name = have.ID, have.Name
	} else if snap.ServiceNamed(s.Name) != nil {
		return false
	}
	s.Stack, s.Networks = rapid.SampledFrom([]string{"", "prod", "b", "b.prod"}).Draw(t, "stack"), drawNetworks(t)
	if rapid.Bool().Draw(t, "alias") {
		s.Aliases = []string{drawName(t, "alias")}
	}
	if w.refuses && snap.CheckServiceNames(s, have) != nil {
		return false
	}
	w.put(mesh.ServiceRecord(s))
	return true
}

// settle gives every endpoint an address on each of its networks.
func (w *namedCluster) settle() {
	snap := w.state.Snapshot()
	for i, e := range snap.Endpoints {
		next := *e
		next.Attached = nil
		for _, id := range e.Networks(snap.Service(e.Service)) {
			n := snap.Network(id)
			v4, v6 := n.Subnet4.Addr().As4(), n.Subnet6.Addr().As16()
			v4[3], v6[15] = byte(i+2), byte(i+2)
			next.Attached = append(next.Attached, mesh.Attachment{Network: id, V4: netip.AddrFrom4(v4), V6: netip.AddrFrom16(v6)})
		}
		w.put(mesh.EndpointRecord(&next))
	}
}

// check asks for every name in every way, in its own stack and in others, from all networks.
func (w *namedCluster) check(t *rapid.T) {
	w.settle()
	snap := w.state.Snapshot()
	zone := NewZone(FromSnapshot(snap, "a000000000000001", nil))
	ask := func(stack, text string, want []string) {
		a := &Asker{Stack: stack, Networks: []mesh.NetworkID{"b000000000000000", "b000000000000001"}}
		found, _ := zone.find(a, strings.ToLower(text))
		var names []string
		for _, b := range found {
			names = append(names, b.host.name)
		}
		if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(want, name) }) {
			t.Fatalf("%q asked in stack %q is %v, not %v", text, stack, names, want)
		}
	}
	every := func(name, stack string, on []mesh.NetworkID, want ...string) {
		ways := []string{name}
		if stack != "" {
			ways = append(ways, name+"."+stack)
			ask("elsewhere", name+"."+stack, want)
		}
		for _, way := range ways {
			ask(stack, way, want)
			for _, id := range on {
				ask(stack, way+"."+snap.Network(id).Name, want)
			}
		}
	}
	for _, s := range snap.Services {
		for _, name := range append([]string{s.Name}, s.Aliases...) {
			every(name, s.Stack, s.Networks, s.Name)
			every("tasks."+name, s.Stack, s.Networks, s.Name)
		}
	}
	for _, e := range snap.Endpoints {
		s := snap.Service(e.Service)
		want := []string{e.Name}
		if strings.EqualFold(e.Name, s.Name) {
			want = append(want, s.Name) // its own service stands before it, where that is
		}
		every(e.Name, s.Stack, e.Networks(s), want...)
	}
}

// heard is one way to write a name of somebody.
type heard struct {
	text, owner, name, stack string
	stacked, alias, direct   bool // direct: without a network
	service                  string
	on                       []mesh.NetworkID // where it is heard
	key                      mesh.Key
	claim                    uint64
}

func (h heard) by(a *Asker) bool {
	return (h.stacked || h.stack == "" || h.stack == a.Stack) && slices.ContainsFunc(h.on, a.scope("").has)
}

func (h heard) equal(o heard) bool {
	return h.key == o.key && h.name == o.name && h.stacked == o.stacked && h.alias == o.alias && h.direct == o.direct && slices.Equal(h.on, o.on)
}

// sharesWith tells whether two may be answered together, or one in the other's place.
func (h heard) sharesWith(o heard) bool {
	own := h.service == o.service && h.key.Kind != o.key.Kind && !h.alias && !o.alias
	return h.owner == o.owner || h.name == o.name && h.stack == o.stack && (h.alias && o.alias || own)
}

func (w *namedCluster) heard() (all []heard) {
	snap := w.state.Snapshot()
	add := func(h heard, on []mesh.NetworkID) {
		r, _ := w.state.Get(h.key)
		h.claim, h.name, h.stack = r.Claim, lower(h.name), lower(h.stack)
		ways := []string{h.name}
		if h.key.Kind == mesh.KindService {
			ways = append(ways, "tasks."+h.name)
		}
		for _, way := range ways {
			for _, h.stacked = range []bool{false, h.stack != ""} {
				h.text, h.direct, h.on = way, true, on
				if h.stacked {
					h.text += "." + h.stack
				}
				all = append(all, h)
				whole := h.text
				for _, id := range on {
					h.text, h.direct, h.on = whole+"."+snap.Network(id).Name, false, []mesh.NetworkID{id}
					all = append(all, h)
				}
			}
		}
	}
	for _, s := range snap.Services {
		h := heard{owner: s.Name, name: s.Name, stack: s.Stack, service: string(s.ID), key: mesh.Key{Kind: mesh.KindService, ID: string(s.ID)}}
		on := slices.Clone(s.Networks)
		for _, e := range snap.EndpointsOf(s.ID) {
			on = append(on, e.Networks(s)...)
		}
		slices.Sort(on)
		on = slices.Compact(on)
		add(h, on)
		for _, h.name = range s.Aliases {
			h.alias = true
			add(h, on)
		}
	}
	for _, e := range snap.Endpoints {
		s := snap.Service(e.Service)
		h := heard{owner: "endpoint " + e.Name, name: e.Name, stack: s.Stack, service: string(s.ID), key: mesh.Key{Kind: mesh.KindEndpoint, ID: string(e.ID)}}
		add(h, e.Networks(s))
		for _, j := range e.Joined {
			for _, h.name = range j.Aliases {
				h.alias = true
				add(h, []mesh.NetworkID{j.Network})
			}
		}
	}
	return all
}

// What nodes apart from each other let in is answered for one of them, the older, on all nodes; and
// who lost a text to it is told of.
func TestShadowsOfTwoSides(t *testing.T) {
	conflicts := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newNamedCluster(t, false)
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			w.step(t, i)
		}
		w.settle()
		snap, all := w.state.Snapshot(), w.heard()
		zone := NewZone(FromSnapshot(snap, "a000000000000001", nil))
		conflicts += len(snap.Conflicts)
		for _, a := range askers() {
			for _, h := range all {
				found, _ := zone.find(a, h.text)
				w.judge(t, asked{a, h.text}, snap, found, slices.DeleteFunc(slices.Clone(all), func(o heard) bool { return o.text != h.text }))
			}
		}
	})
	if conflicts == 0 {
		t.Error("nothing was written alike")
	}
}
