package mesh

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A network that a user called like the default bridge has the name for itself, whether there is
// such a bridge or not: one state is always read alike.
func TestShadowsOnTheDefaultBridgesNamesake(t *testing.T) {
	for what, bridge := range map[string]bool{"alone": false, "beside it": true} {
		w := newWorld(t, 1)
		a := testID[NodeID]('a', 1)
		for _, wish := range []NetworkWish{{ID: testID[NetworkID]('b', 3), Name: "Sluice0", Driver: Bridge}, {ID: DefaultBridge, Name: DefaultBridgeName, Driver: Bridge}} {
			if wish.ID == DefaultBridge && !bridge {
				continue
			}
			name := wish.Name
			wish.Name = "side-" + string(wish.ID) // the other side of a split took the name too
			n, err := NewNetwork(w.state.Snapshot(), wish)
			if err != nil {
				t.Fatal(err)
			}
			n.Name = name
			w.write(a, NetworkRecord(n))
		}
		older := w.named(2, "web.sluice0", "", 3, "")
		younger := w.named(1, "web", "", 3, "")
		for range 200 {
			snap := w.state.Snapshot()
			var got []Conflict
			for _, c := range snap.Conflicts {
				if c.Reason == NameShadows {
					got = append(got, c)
				}
			}
			want := []Conflict{{Kind: KindService, ID: string(younger.ID), Claim: `name "web.sluice0"`, Winner: string(older.ID), Reason: NameShadows, By: KindService}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s: (-want +got)\n%s", what, diff)
			}
		}
	}
}
