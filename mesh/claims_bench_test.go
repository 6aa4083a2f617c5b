package mesh

import (
	"fmt"
	"net/netip"
	"testing"
)

// manyNetworks is a state with so many networks, each with a further subnet.
func manyNetworks(t fataler, count int) *State {
	w := newWorld(t, 1)
	for i := range count {
		n := &Network{
			ID: testID[NetworkID]('b', i+1), Name: fmt.Sprintf("net%d", i), Bits4: blockBits4, VNI: firstVNI + 2 + VNI(i),
			Subnet4: nth4(netip.MustParsePrefix("10.0.0.0/8"), 20, i), Subnet6: ula(uint64(i + 1000)),
			More: []Subnet{{nth4(netip.MustParsePrefix("11.0.0.0/8"), 20, i), w.time}},
		}
		w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	}
	return &w.state
}

func BenchmarkSnapshotOfNetworks(b *testing.B) {
	for _, count := range []int{10, 1000, 3000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			state := manyNetworks(b, count)
			for b.Loop() {
				state.Snapshot()
			}
		})
	}
}

// BenchmarkSnapshotOfServices is about services that publish one port each.
func BenchmarkSnapshotOfServices(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			w := newWorld(b, 1)
			for i := range count {
				s := testService(i+1, tcp(uint16(i+1)))
				s.Networks = []NetworkID{testID[NetworkID]('b', 1)}
				w.write(testID[NodeID]('a', 1), ServiceRecord(s))
			}
			for b.Loop() {
				w.state.Snapshot()
			}
		})
	}
}
