package mesh

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// namedWorld has service web in stack prod with alias www and endpoint web.1, service plain in no
// stack with endpoint db that is called sql on network lan, and networks lan and far.
func namedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 1)
	a := testID[NodeID]('a', 1)
	for i, name := range []string{"lan", "far"} {
		n, err := NewNetwork(w.state.Snapshot(), NetworkWish{ID: testID[NetworkID]('b', i+1), Name: name, Driver: Bridge})
		if err != nil {
			t.Fatal(err)
		}
		w.write(a, NetworkRecord(n))
	}
	web, plain := testService(1), testService(2)
	web.Name, web.Stack, web.Aliases, web.Networks = "web", "prod", []string{"www"}, []NetworkID{testID[NetworkID]('b', 1)}
	plain.Name, plain.Networks = "Plain", web.Networks
	w.write(a, ServiceRecord(web))
	w.write(a, ServiceRecord(plain))
	one, db := testEndpoint(1, 1, 1), testEndpoint(2, 1, 2)
	one.Name, db.Name = "web.1", "db"
	db.Joined = []Joined{{Network: testID[NetworkID]('b', 1), ByService: true, Aliases: []string{"sql"}}}
	w.write(a, EndpointRecord(one))
	w.write(a, EndpointRecord(db))
	return w
}

// wantShadow checks that a refusal names who it would be mixed up with; other is empty where there is none.
func wantShadow(t *testing.T, what string, err error, other string) {
	t.Helper()
	switch {
	case other == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case other != "" && (ReasonOf(err) != NameShadows || !strings.Contains(err.Error(), " and "+other+": ")):
		t.Errorf("%s: %v, want the other to be %s", what, err, other)
	}
}

func TestServiceNamesShadow(t *testing.T) {
	const web, one, plain, db = `service "web" of stack "prod"`, `endpoint "web.1" of stack "prod"`, `service "Plain"`, `endpoint "db"`
	snap := namedWorld(t).state.Snapshot()
	for _, tt := range []struct {
		name, stack, alias string
		network            int // 0: none
		other              string
	}{
		{"api", "", "", 1, ""},
		{"tasks.plain", "", "", 1, plain},
		{"TASKS.Plain", "", "", 1, plain},
		{"tasks.plain", "prod", "", 1, ""}, // its own stack's comes first, as it says
		{"tasks.web", "prod", "", 1, web},
		{"tasks.web", "", "", 1, ""},
		{"web.prod", "", "", 1, web},
		{"web.prod", "test", "", 1, web},
		{"tasks.web.prod", "", "", 1, web},
		{"www.prod", "", "", 1, web + ` by its alias "www"`},
		{"web.1.prod", "", "", 1, one},
		{"web", "1.prod", "", 1, one},
		{"web.1", "prod", "", 1, one},
		{"web.1", "", "", 1, ""},
		{"db", "", "", 1, db},
		{"db", "prod", "", 1, ""},
		{"sql", "", "", 2, db + ` by its alias "sql"`},
		{"tasks.db", "", "", 1, ""}, // an endpoint has no tasks
		{"plain.lan", "", "", 1, plain},
		{"plain.far", "", "", 1, ""},
		{"web.lan", "prod", "", 2, web},
		{"web.prod.lan", "", "", 1, web},
		{"web.lan", "", "", 2, web}, // for who is of the stack
		{"web.lan", "test", "", 1, ""},
		{"plain.lan", "test", "", 1, ""},
		{"api", "", "plain", 1, plain},
		{"api", "", "sql", 1, ""}, // an alias is of all that have it
		{"api", "", "tasks.plain", 1, plain},
		{"api", "", "web.prod", 1, web},
		{"api", "prod", "www", 1, ""},
		{"api", "prod", "web", 1, web},
	} {
		s := testService(9)
		s.Name, s.Stack = tt.name, tt.stack
		if tt.alias != "" {
			s.Aliases = []string{tt.alias}
		}
		if tt.network != 0 {
			s.Networks = []NetworkID{testID[NetworkID]('b', tt.network)}
		}
		wantShadow(t, fmt.Sprintf("%+v", tt), snap.CheckServiceNames(s, nil), tt.other)
	}
}

func TestEndpointNamesShadow(t *testing.T) {
	const web, plain = `service "web" of stack "prod"`, `service "Plain"`
	snap := namedWorld(t).state.Snapshot()
	for _, tt := range []struct {
		name, alias string
		of          int
		other       string
	}{
		{"web.2", "", 1, ""},
		{"web", "", 1, ""}, // as its own service
		{"web", "", 2, ""}, // in no stack
		{"web.prod", "", 2, web},
		{"tasks.web", "", 1, web},
		{"plain", "", 2, ""},
		{"tasks.plain", "", 2, plain},
		{"plain.lan", "", 2, plain},
		{"one", "plain", 2, ""},
		{"one", "db", 2, `endpoint "db"`},
		{"one", "sql", 2, ""},
		{"one", "web.prod", 2, web},
		{"sql", "", 2, `endpoint "db" by its alias "sql"`},
		{"www", "", 1, web + ` by its alias "www"`},
	} {
		e := testEndpoint(9, 1, tt.of)
		e.Name = tt.name
		if tt.alias != "" {
			e.Joined = []Joined{{Network: testID[NetworkID]('b', 1), ByService: true, Aliases: []string{tt.alias}}}
		}
		wantShadow(t, fmt.Sprintf("%+v", tt), snap.CheckEndpointNames(e, nil), tt.other)
	}
}

// What is there already, as of before there was such a check, may be changed in other ways.
func TestShadowsThatAreThere(t *testing.T) {
	w := namedWorld(t)
	bad := testService(3)
	bad.Name = "web.prod"
	w.write(testID[NodeID]('a', 1), ServiceRecord(bad))
	snap := w.state.Snapshot()
	next := *bad
	next.Networks = []NetworkID{testID[NetworkID]('b', 1)}
	if err := snap.CheckServiceNames(&next, bad); err != nil {
		t.Errorf("on a network: %v", err)
	}
	next.Aliases = []string{"db"}
	wantShadow(t, "with an alias", snap.CheckServiceNames(&next, bad), `endpoint "db"`)
	// A stack takes the endpoints' names with it, and a network gives them another.
	plain := snap.Service(testID[ServiceID]('c', 2))
	moved := *plain
	moved.Stack = "prod"
	also := testService(4)
	also.Name, also.Stack = "db.prod", "other"
	w.write(testID[NodeID]('a', 1), ServiceRecord(also))
	wantShadow(t, "into a stack", w.state.Snapshot().CheckServiceNames(&moved, plain), `service "db.prod" of stack "other"`)
	also.Name, also.Stack = "db.far", ""
	w.write(testID[NodeID]('a', 1), ServiceRecord(also))
	moved = *plain
	moved.Networks = []NetworkID{testID[NetworkID]('b', 1), testID[NetworkID]('b', 2)}
	wantShadow(t, "onto a network", w.state.Snapshot().CheckServiceNames(&moved, plain), `service "db.far"`)
	db := w.state.Snapshot().EndpointNamed("db")
	joined := *db
	joined.Joined = append(joined.Joined, Joined{Network: testID[NetworkID]('b', 2)})
	wantShadow(t, "connected", w.state.Snapshot().CheckEndpointNames(&joined, db), `service "db.far"`)
}

// A service on no network is on the default bridge, which is made with the first such service.
func TestDefaultBridgeNamesShadow(t *testing.T) {
	w := namedWorld(t)
	here := func(s *Service) *Service {
		c := *s
		c.Networks, c.Publish = nil, []PublishedPort{{Proto: TCP, Published: 80, Target: 80, Mode: Hosted}}
		return &c
	}
	also := testService(3)
	also.Name, also.Networks, also.Aliases = "api", []NetworkID{testID[NetworkID]('b', 1)}, []string{"plain.sluice0"}
	snap := w.state.Snapshot()
	plain := snap.Service(testID[ServiceID]('c', 2))
	w.write(testID[NodeID]('a', 1), ServiceRecord(also))
	wantShadow(t, "onto it", w.state.Snapshot().CheckServiceNames(here(plain), plain), `service "api" by its alias "plain.sluice0"`)
	w.named(5, "other", "", 1, "fresh.sluice0")
	fresh := testService(4)
	fresh.Name = "fresh"
	wantShadow(t, "made on it", w.state.Snapshot().CheckServiceNames(here(fresh), nil), `service "other" by its alias "fresh.sluice0"`)
	// Removed by one side of a split, while the other took it into use.
	w = namedWorld(t)
	w.write(testID[NodeID]('a', 1), ServiceRecord(here(plain)))
	wantShadow(t, "gone", w.state.Snapshot().CheckServiceNames(also, nil), `service "Plain"`)
}

// named puts a service into the world.
func (w *world) named(number int, name, stack string, on int, alias string) *Service {
	s := testService(number)
	s.Name, s.Stack, s.Networks = name, stack, []NetworkID{testID[NetworkID]('b', on)}
	if alias != "" {
		s.Aliases = []string{alias}
	}
	w.write(testID[NodeID]('a', 1), ServiceRecord(s))
	return s
}

// Of two that two sides of a split let in, the older is meant, and the younger is told of.
func TestShadowsMet(t *testing.T) {
	type service struct{ name, stack, alias string }
	for what, tt := range map[string]struct {
		older, younger service
		conflict, lost string
	}{
		"whole":          {service{"shop", "test", ""}, service{"shop.test", "", ""}, "shop.test", "shop.test shop.test.lan tasks.shop.test tasks.shop.test.lan"},
		"stacked":        {service{"shop.test", "", ""}, service{"shop", "test", ""}, "shop.test", "shop.test shop.test.lan tasks.shop.test tasks.shop.test.lan"},
		"by network":     {service{"a.lan", "", ""}, service{"a", "", ""}, "a.lan", "a.lan tasks.a.lan"},
		"of a network":   {service{"a", "", ""}, service{"a.lan", "", ""}, "a.lan", "a.lan tasks.a.lan"},
		"alias":          {service{"a", "", "b"}, service{"c", "", "a"}, "a", "a a.lan tasks.a tasks.a.lan"},
		"alias of both":  {service{"a", "", "a.lan"}, service{"b", "", "a.lan"}, "a.lan", "a.lan tasks.a.lan"},
		"tasks":          {service{"a", "", ""}, service{"b", "", "tasks.a"}, "tasks.a", "tasks.a tasks.a.lan"},
		"endpoint":       {service{"a", "", ""}, service{"b", "", "db"}, "db", "db db.lan"},
		"common alias":   {service{"a", "", "x"}, service{"b", "", "x"}, "", ""},
		"other stacks":   {service{"a", "one", "x"}, service{"b", "two", "x"}, "", ""},
		"in a stack":     {service{"a", "", "x"}, service{"b", "two", "x"}, "", ""},
		"nobody's asker": {service{"a.lan", "one", ""}, service{"a", "two", ""}, "", ""},
	} {
		w := namedWorld(t)
		older := w.named(8, tt.older.name, tt.older.stack, 1, tt.older.alias)
		younger := w.named(7, tt.younger.name, tt.younger.stack, 1, tt.younger.alias)
		winner, by := string(older.ID), KindService
		if what == "endpoint" {
			winner, by = string(testID[EndpointID]('e', 2)), KindEndpoint
		}
		var want []Conflict
		if tt.conflict != "" {
			want = []Conflict{{Kind: KindService, ID: string(younger.ID), Claim: `name "` + tt.conflict + `"`, Winner: winner, Reason: NameShadows, By: by}}
		}
		snap := w.state.Snapshot()
		if diff := cmp.Diff(want, snap.Conflicts); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", what, diff)
		}
		lost, kept := snap.Shadowed(KindService, string(younger.ID)), snap.Shadowed(by, winner)
		got := ""
		for _, s := range lost {
			got += " " + s.Text
			if !slices.Equal(s.On, younger.Networks) {
				t.Errorf("%s: %q is lost on %v, not %v", what, s.Text, s.On, younger.Networks)
			}
		}
		if got = strings.TrimSpace(got); got != tt.lost || len(kept) > 0 {
			t.Errorf("%s: the younger has lost %q, not %q, and the older %v", what, got, tt.lost, kept)
		}
		w.write(testID[NodeID]('a', 1), Record{Kind: by, ID: winner, Deleted: true})
		if again := w.state.Snapshot(); len(again.Conflicts)+len(again.Shadowed(KindService, string(younger.ID))) > 0 {
			t.Errorf("%s: without the older: %v", what, again.Conflicts)
		}
	}
}

func BenchmarkCheckEndpointNames(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("endpoints=%d", count), func(b *testing.B) {
			var s State
			put := func(r Record) { s.Merge(stamped(r, s.Seen()+1, testID[NodeID]('a', 1))) }
			for i := range count {
				service := testService(i)
				service.Aliases, service.Stack = []string{fmt.Sprintf("alias%d", i)}, "stack"
				put(ServiceRecord(service))
				put(EndpointRecord(testEndpoint(i, 1, i)))
			}
			snap := s.Snapshot()
			e := testEndpoint(count, 1, 0)
			b.ReportAllocs()
			for b.Loop() {
				if err := snap.CheckEndpointNames(e, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A service whose endpoints all have one alias goes into a stack.
func BenchmarkCheckServiceNames(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("endpoints=%d", count), func(b *testing.B) {
			var s State
			put := func(r Record) { s.Merge(stamped(r, s.Seen()+1, testID[NodeID]('a', 1))) }
			have := testService(1)
			put(ServiceRecord(have))
			for i := range count {
				e := testEndpoint(i, 1, 1)
				e.Name = fmt.Sprintf("db.%x", i) // as an endpoint is called that nobody named
				e.Joined = []Joined{{Network: testID[NetworkID]('b', 1), Aliases: []string{"db"}}}
				put(EndpointRecord(e))
			}
			snap, next := s.Snapshot(), *have
			next.Stack = "prod"
			for b.Loop() {
				if err := snap.CheckServiceNames(&next, have); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
