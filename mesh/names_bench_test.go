package mesh

import (
	"fmt"
	"testing"
)

// BenchmarkSnapshotOfNames is about endpoints that have a name and an alias on two networks, a
// service of a stack for each ten, and one in a hundred that is called like another.
func BenchmarkSnapshotOfNames(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			s := manyNames(b, count)
			b.ReportAllocs()
			for b.Loop() {
				s.Snapshot()
			}
		})
	}
}

func manyNames(b *testing.B, count int) *State {
	b.Helper()
	w := newWorld(b, 1)
	for i, name := range []string{"lan", "far"} {
		n, err := NewNetwork(w.state.Snapshot(), NetworkWish{ID: testID[NetworkID]('b', i+1), Name: name, Driver: Bridge})
		if err != nil {
			b.Fatal(err)
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	}
	for i := range count {
		if i%10 == 0 {
			s := testService(i / 10)
			s.Name, s.Stack, s.Networks = fmt.Sprintf("web%d", i/10), fmt.Sprintf("stack%d", i/100), []NetworkID{testID[NetworkID]('b', 1), testID[NetworkID]('b', 2)}
			w.write(testID[NodeID]('a', 1), ServiceRecord(s))
		}
		e := testEndpoint(i, 1, i/10)
		e.Name = fmt.Sprintf("web%d.%06x", i/10, i)
		e.Joined = []Joined{{Network: testID[NetworkID]('b', 1), ByService: true, Aliases: []string{"web"}}}
		w.write(testID[NodeID]('a', 1), EndpointRecord(e))
	}
	return &w.state
}
