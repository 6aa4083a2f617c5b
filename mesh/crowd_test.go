package mesh

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// crowded has n stacks, each with a service that is called db in it.
func crowded(t *testing.T, n int, what string) *State {
	t.Helper()
	w := newWorld(t, 1)
	put := func(number int, name, stack string, on int, aliases ...string) {
		s := testService(number)
		s.Name, s.Stack, s.Networks, s.Aliases = name, stack, []NetworkID{testID[NetworkID]('b', on)}, aliases
		w.time++
		w.state.Merge(stamped(ServiceRecord(s), w.time, testID[NodeID]('a', 1)))
	}
	network := func(number int, name string) {
		w.time++
		w.state.Merge(stamped(NetworkRecord(&Network{ID: testID[NetworkID]('b', number), Name: name, Driver: Bridge}), w.time, testID[NodeID]('a', 1)))
	}
	network(1, "net")
	for i := range n {
		name, stack := fmt.Sprintf("s%d", i), fmt.Sprintf("stack%d", i)
		switch what {
		case "a network each":
			network(i+2, stack)
			put(i, name, stack, i+2, "db")
		case "one is called like another":
			put(i, name, stack, 1, "db")
		case "like on a network":
			put(i, name, stack, 1, "db", "db.net")
		case "like those in no stack on a network":
			put(i, name, stack, 1, "db.net")
			put(n+i, "other-"+name, "", 1, "db")
		case "all are called like one":
			put(i, name, stack, 1, "db.shop")
			put(n+i, "other-"+name, "shop", 1, "db")
		}
	}
	if what == "one is called like another" {
		put(n, "db", "", 1)
		put(n+1, "other", "", 1, "db")
	}
	return &w.state
}

// namesByAge are all names of a state.
func namesByAge(s *State) (snap *Snapshot, names []called) {
	snap = s.Snapshot()
	records := make([]Record, 0, len(s.records))
	for _, r := range s.records {
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Or(cmp.Compare(a.Claim, b.Claim), compareRecords(a, b)) })
	return snap, snap.namesByAge(records, snap.withoutName())
}

// However many are called alike, each is compared with few.
func TestNamesOfCrowds(t *testing.T) {
	const n = 300
	for what, conflicts := range map[string]int{
		"a network each": 0, "one is called like another": 1, "like on a network": 0, "like those in no stack on a network": 0, "all are called like one": n,
	} {
		snap, names := namesByAge(crowded(t, n, what))
		speller := snap.speller(nil)
		snap.Conflicts = nil
		snap.leaveToOlder(speller.suspects(names), speller)
		if got := len(snap.Conflicts); got != conflicts {
			t.Errorf("%s: %d conflicts, not %d", what, got, conflicts)
		}
		if speller.looked > 16*len(names) {
			t.Errorf("%s: %d names were compared %d times", what, len(names), speller.looked)
		}
	}
}

// Who may be written like another is a suspect: to look at these is to look at all.
func TestSuspectsAreAll(t *testing.T) {
	conflicts := 0
	rapid.Check(t, func(t *rapid.T) {
		var s State
		time := uint64(0)
		put := func(r Record) {
			time++
			s.Merge(stamped(r, time, testID[NodeID]('a', 1)))
		}
		var ids []NetworkID
		for i, name := range []string{"b", "a.b", "c.a.b", "net", "sluice0"} {
			ids = append(ids, testID[NetworkID]('b', i))
			put(NetworkRecord(&Network{ID: ids[i], Name: name, Driver: Bridge}))
		}
		name := rapid.SampledFrom([]string{"x", "x.a", "x.a.b", "x.c", "x.c.a", "x.b", "x.net", "a", "y.x", "tasks.x", "x.c.a.b", "x.sluice0", "x.net.b"})
		on := rapid.SliceOfNDistinct(rapid.SampledFrom(ids), 0, 3, rapid.ID[NetworkID])
		for i := range rapid.IntRange(2, 8).Draw(t, "services") {
			v := testService(i)
			v.Name, v.Stack, v.Networks = name.Draw(t, "name"), rapid.SampledFrom([]string{"", "x", "a", "b", "a.b"}).Draw(t, "stack"), on.Draw(t, "networks")
			v.Aliases = rapid.SliceOfN(name, 0, 2).Draw(t, "aliases")
			put(ServiceRecord(v))
			e := testEndpoint(i, 1, i)
			e.Name = name.Draw(t, "endpoint")
			for _, id := range on.Draw(t, "joined") {
				e.Joined = append(e.Joined, Joined{Network: id, Aliases: rapid.SliceOfN(name, 0, 2).Draw(t, "aliases")})
			}
			put(EndpointRecord(e))
		}
		snap, names := namesByAge(&s)
		got := snap.shadowed
		snap.shadowed = map[Key][]Shadow{}
		snap.leaveToOlder(names, snap.speller(snap.withoutName()))
		if diff := gocmp.Diff(snap.shadowed, got); diff != "" {
			t.Fatalf("(-all +suspects)\n%s", diff)
		}
		conflicts += len(got)
	})
	if conflicts == 0 {
		t.Error("nothing was written alike")
	}
}
