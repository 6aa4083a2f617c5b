package gossip

import (
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Members go over to another key one after the other and never lose each other; then who has the
// old one alone is a stranger.
func TestSetKeys(t *testing.T) {
	nodes := cluster(t, 3)
	old, next := key(1), key(9)
	for _, n := range nodes {
		if err := n.SetKeys(old, next); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		if err := n.SetKeys(next, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range nodes {
		if err := n.SetKeys(next); err != nil {
			t.Fatal(err)
		}
	}
	r := nodes[0].write(service(1))
	for _, n := range nodes {
		within(t, 5*time.Second, "a record arrives", hasVersion(n, r))
	}
	time.Sleep(2 * time.Second) // long enough for a silent one to be found dead
	for _, n := range nodes {
		if got := n.Members(); len(got) != len(nodes) {
			t.Errorf("a member sees %v", got)
		}
	}
	stranger := startNode(t, 9, old)
	if _, err := stranger.Join(t.Context(), nodes[0].addr); mesh.ReasonOf(err) != WrongSecret {
		t.Errorf("who has the old key: %v", err)
	}
	if err := nodes[0].SetKeys(); mesh.ReasonOf(err) != mesh.BadValue {
		t.Errorf("no key: %v", err)
	}
	if err := nodes[0].SetKeys(next, []byte("short")); mesh.ReasonOf(err) != mesh.BadValue {
		t.Errorf("a short key: %v", err)
	}
}
