package mesh

import (
	"fmt"
	"strings"
	"testing"
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
