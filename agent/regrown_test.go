package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// Both sides of a split give one network a subnet: it has both in the end, and the endpoint that
// has an address in the one whose write was overtaken keeps it.
func TestOvertakenSubnetsAreAddedAgain(t *testing.T) {
	at := &clock{at: time.Unix(1000, 0)}
	c, _ := member(t, scene.New(t, 1), at)
	blue, err := mesh.NewNetwork(c.snapshot(), mesh.NetworkWish{ID: testID[mesh.NetworkID]('b', 1), Name: "blue", Subnets: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	grown := func(subnet string, claim uint64) mesh.Record {
		n := *blue
		n.More = []mesh.Subnet{{Prefix: netip.MustParsePrefix(subnet), Claim: claim}}
		return mesh.NetworkRecord(&n)
	}
	want := netip.MustParseAddr("10.7.0.5")
	e := &mesh.Endpoint{
		ID: testID[mesh.EndpointID]('e', 1), Name: "web.1", Service: testID[mesh.ServiceID]('c', 1), Node: c.own.ID,
		State: mesh.Ready, Weight: 1, Fixed: []netip.Addr{want},
	}
	for _, r := range []mesh.Record{mesh.NetworkRecord(blue), grown("10.7.0.0/24", 1000e6), service("web", 1, blue.ID), mesh.EndpointRecord(e)} {
		if _, err := c.update(writes(r)); err != nil {
			t.Fatal(err)
		}
	}
	snap, _, err := c.settle()
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := snap.EndpointNamed("web.1").On(blue.ID); a.V4 != want {
		t.Fatalf("it is given %v", a)
	}
	at.set(time.Unix(1010, 0))
	other := written(grown("10.8.0.0/24", 1005e6), scene.NodeID(2), 1005e6)
	other.Claim = 1000e6
	c.mu.Lock()
	c.mergeLocked([]mesh.Record{other})
	c.mu.Unlock()
	for range 2 { // once it is well nothing is written
		if snap, _, err = c.settle(); err != nil {
			t.Fatal(err)
		}
		n := snap.Network(blue.ID)
		if got := prefixTexts(n.Subnets4()); !slices.Equal(got, []string{"10.9.0.0/24", "10.8.0.0/24", "10.7.0.0/24"}) || n.More[1].Claim != 1000e6 {
			t.Errorf("the network has %v", n.More)
		}
		if got := snap.EndpointNamed("web.1"); len(got.Attached) != 1 || got.Attached[0].V4 != want || len(got.Left) != 0 {
			t.Errorf("web.1 has %v, had %v", got.Attached, got.Left)
		}
	}
	if len(c.overtaken) != 0 {
		t.Errorf("%v are to be added still", c.overtaken)
	}
}
