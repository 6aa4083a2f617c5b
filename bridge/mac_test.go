package bridge

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// A hardware address is one endpoint's on a bridge: never one that takes the host's, and not one that
// took what is made from another's address or what an older one chose.
func TestPortsOfOneAddress(t *testing.T) {
	w := scene.New(t, 1)
	id := w.Bridge("yard", mesh.NetworkWish{})
	n := w.State.Snapshot().Network(id)
	s := w.Service("a", []mesh.NetworkID{id})
	plain := w.Endpoint(s, "plain", 1)
	w.Settle()
	on, _ := w.State.Snapshot().EndpointNamed("plain").On(id)
	own := plan.MAC{0x02, 0, 0, 0, 0, 7}
	for _, c := range []struct {
		name string
		mac  plan.MAC
	}{{"gateway", plan.BridgedMAC(n.Gateway4)}, {"stolen", plan.BridgedMAC(on.V4)}, {"first", own}, {"second", own}} {
		w.Join(w.Endpoint(s, c.name, 1), mesh.Joined{Network: id, MAC: c.mac})
	}
	w.Settle()
	p := compile(w, mesh.Local{})
	ports := map[plan.MAC]string{}
	for _, l := range p.Sandbox(plan.BridgeSandbox(string(id)), plan.KindNetwork).Links {
		if l.Name != plan.BridgeHost && l.Kind == plan.LinkVeth {
			if other := ports[l.Peer.MAC]; other != "" {
				t.Errorf("%s and %s are both %s", other, l.Name, l.Peer.MAC)
			}
			ports[l.Peer.MAC] = l.Name
		}
	}
	if want := plan.BridgePort(string(plain.ID), string(id)); ports[plan.BridgedMAC(on.V4)] != want {
		t.Errorf("%s is not that of %s: %v", plan.BridgedMAC(on.V4), want, ports)
	}
	if ports[own] == "" || len(ports) != 2 {
		t.Errorf("ports are %v", ports)
	}
	var left []string
	for _, l := range p.Left {
		if l.Reason == plan.AddressClash {
			left = append(left, strings.TrimPrefix(l.Object, "endpoint "))
		}
	}
	if got := strings.Join(left, " "); got != "gateway second stolen" {
		t.Errorf("left out are %s", got)
	}
}
