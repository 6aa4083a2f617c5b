package sim

import (
	"fmt"
	"testing"
	"time"
)

// What two halves of a cluster wrote while they were apart, each as much as half of 300 nodes in our
// table, comes together over a network that loses a fifth of all packets.
func TestMuchIsHealedInBadWeather(t *testing.T) {
	const (
		each   = 150
		within = 12 * time.Second
	)
	inWorld(t, 4, func(w *World, d digests) {
		w.Net.SetWeather(Weather{Loss: 0.2})
		for _, a := range w.Nodes[:2] {
			for _, b := range w.Nodes[2:] {
				w.Net.Cut(a.at.Addr(), b.at.Addr())
				w.Net.Cut(b.at.Addr(), a.at.Addr())
			}
		}
		time.Sleep(3 * time.Second)
		for i := range each {
			create(t, w, 0, fmt.Sprint("here", i))
			create(t, w, 2, fmt.Sprint("there", i))
		}
		time.Sleep(10 * time.Second)
		w.Net.Mend()
		took, err := Within(within, 20*time.Millisecond, func() error { return w.Agreed(d) })
		if err != nil {
			t.Errorf("not within %v: %v", within, err)
		}
		t.Logf("after %v", took)
	})
}
