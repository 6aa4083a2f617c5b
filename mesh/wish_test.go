package mesh

import (
	"net/netip"
	"slices"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func addresses(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		list = append(list, netip.MustParseAddr(text))
	}
	return list
}

func TestNetworkWish(t *testing.T) {
	w := newWorld(t, 1)
	a := testID[NodeID]('a', 1)
	blue, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.MustParsePrefix("10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(a, NetworkRecord(blue))
	routed := w.state.Snapshot().Node(a).WithRoutes([]Route{{netip.MustParsePrefix("10.7.1.0/24"), "route dev docker0"}})
	w.write(a, NodeRecord(routed))
	for name, c := range map[string]struct {
		wish NetworkWish
		want Reason
	}{
		"bridge":                    {NetworkWish{Driver: Bridge}, ""},
		"bridge of both":            {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/30", "fd00:2::/126")}, ""},
		"the largest":               {NetworkWish{Driver: Bridge, Subnets: prefixes("11.0.0.0/8", "fd00:2::/48")}, ""},
		"IPv6 alone":                {NetworkWish{Driver: Bridge, Subnets: prefixes("fd00:2::/64"), Routed: true}, ""},
		"gateways":                  {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24", "fd00:2::/64"), Gateways: addresses("10.2.0.254", "fd00:2::ffff")}, ""},
		"overlay":                   {NetworkWish{Driver: Overlay, Internal: true, Apart: true, MTU: 1280}, ""},
		"overlay of both":           {NetworkWish{Subnets: prefixes("fd00:2::/48", "10.2.0.0/24")}, ""},
		"driver":                    {NetworkWish{Driver: "macvlan"}, BadValue},
		"too small":                 {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/31")}, BadAddress},
		"too small of IPv6":         {NetworkWish{Driver: Bridge, Subnets: prefixes("fd00:2::/127")}, BadAddress},
		"too large of IPv6":         {NetworkWish{Driver: Bridge, Subnets: prefixes("fd01::/32")}, BadAddress},
		"host bits":                 {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.1/24")}, BadAddress},
		"mapped":                    {NetworkWish{Driver: Bridge, Subnets: prefixes("::ffff:10.2.0.0/120")}, BadAddress},
		"two of one family":         {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24", "10.3.0.0/24")}, BadValue},
		"a network's":               {NetworkWish{Driver: Bridge, Subnets: prefixes("10.1.4.0/24")}, SubnetTaken},
		"a node's":                  {NetworkWish{Driver: Bridge, Subnets: prefixes("192.0.2.0/24")}, SubnetTaken},
		"led elsewhere":             {NetworkWish{Driver: Bridge, Subnets: prefixes("10.7.0.0/16")}, SubnetTaken},
		"loopback":                  {NetworkWish{Driver: Bridge, Subnets: prefixes("127.1.0.0/16")}, BadAddress},
		"gateway outside":           {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24"), Gateways: addresses("10.3.0.1")}, BadAddress},
		"gateway is the network":    {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24"), Gateways: addresses("10.2.0.0")}, BadAddress},
		"gateway is the broadcast":  {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24"), Gateways: addresses("10.2.0.255")}, BadAddress},
		"gateway is anycast":        {NetworkWish{Driver: Bridge, Subnets: prefixes("fd00:2::/64"), Gateways: addresses("fd00:2::")}, BadAddress},
		"two gateways":              {NetworkWish{Driver: Bridge, Subnets: prefixes("10.2.0.0/24"), Gateways: addresses("10.2.0.1", "10.2.0.2")}, BadValue},
		"gateway of an overlay":     {NetworkWish{Subnets: prefixes("10.2.0.0/24"), Gateways: addresses("10.2.0.1")}, BadValue},
		"routed overlay":            {NetworkWish{Routed: true}, BadValue},
		"routed internal":           {NetworkWish{Driver: Bridge, Internal: true, Routed: true}, BadValue},
		"MTU below IPv6's":          {NetworkWish{Driver: Bridge, MTU: 1279}, BadValue},
		"MTU of more than a packet": {NetworkWish{Driver: Bridge, MTU: 65536}, BadValue},
		"zone in a gateway":         {NetworkWish{Driver: Bridge, Gateways: addresses("fe80::1%eth0")}, BadAddress},
	} {
		snap := w.state.Snapshot()
		c.wish.ID, c.wish.Name = testID[NetworkID]('b', 2), "lan"
		n, err := NewNetwork(snap, c.wish)
		if ReasonOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			continue
		}
		for _, p := range n.Subnets() {
			if overlapped(p, snap.Networks) != nil {
				t.Errorf("%s: %s is taken", name, p)
			}
		}
		for _, p := range c.wish.Subnets {
			if p != n.Subnet4 && p != n.Subnet6 {
				t.Errorf("%s: has %v", name, n.Subnets())
			}
		}
		if n.Bridged() && (n.VNI != 0 || n.Bits4 != 0 || !n.Subnet4.Contains(n.Gateway4) || !n.Subnet6.Contains(n.Gateway6)) {
			t.Errorf("%s: %+v", name, n)
		}
		again, err := NewNetwork(snap, c.wish)
		if err != nil || again.Subnet4 != n.Subnet4 || again.Subnet6 != n.Subnet6 || again.VNI != n.VNI {
			t.Errorf("%s again: %+v, %v", name, again, err)
		}
	}
}

// A bridge has no VNI that another could have, and keeps its range from overlays.
func TestBridgesAmongNetworks(t *testing.T) {
	w := newWorld(t, 1)
	a := testID[NodeID]('a', 1)
	for i, name := range []string{"lan", "far"} {
		n, err := NewNetwork(w.state.Snapshot(), NetworkWish{ID: testID[NetworkID]('b', i+1), Name: name, Driver: Bridge})
		if err != nil {
			t.Fatal(err)
		}
		w.write(a, NetworkRecord(n))
	}
	snap := w.state.Snapshot()
	if len(snap.Conflicts) != 0 {
		t.Errorf("two bridges: %v", snap.Conflicts)
	}
	lan := snap.NetworkNamed("lan")
	if _, err := newOverlay(snap, testID[NetworkID]('b', 9), "blue", netip.PrefixFrom(lan.Subnet4.Addr(), 24)); ReasonOf(err) != SubnetTaken {
		t.Errorf("an overlay in a bridge's range: %v", err)
	}
	if _, err := snap.Grow(lan, prefixes("10.9.0.0/24"), w.time); ReasonOf(err) != Unsupported {
		t.Errorf("a further subnet: %v", err)
	}
	// Made on the other side of a split: the older one holds the range.
	late := *lan
	late.ID, late.Name = testID[NetworkID]('b', 3), "late"
	w.write(a, NetworkRecord(&late))
	if snap = w.state.Snapshot(); snap.Network(late.ID) != nil || snap.Network(lan.ID) == nil {
		t.Errorf("conflicts: %v", snap.Conflicts)
	}
}

// A service that publishes ports of its nodes' own, and is on no network, is on the default bridge.
func TestDefaultBridge(t *testing.T) {
	w := newWorld(t, 1)
	a := testID[NodeID]('a', 1)
	n, err := NewDefaultBridge(w.state.Snapshot())
	if err != nil || n.ID != DefaultBridge || n.Name != "sluice0" || !n.Bridged() {
		t.Fatalf("%+v, %v", n, err)
	}
	w.write(a, NetworkRecord(n))
	if _, err := NewDefaultBridge(w.state.Snapshot()); ReasonOf(err) != NameTaken {
		t.Errorf("a second one: %v", err)
	}
	hosted, meshed := PublishedPort{Proto: TCP, Published: 80, Target: 80, Mode: Hosted}, tcp(81)
	own := testID[NetworkID]('b', 1)
	for _, c := range []struct {
		publish  []PublishedPort
		networks []NetworkID
		want     []NetworkID
	}{
		{nil, nil, nil},
		{[]PublishedPort{hosted}, nil, []NetworkID{DefaultBridge}},
		{[]PublishedPort{hosted}, []NetworkID{own}, []NetworkID{own}},
		{[]PublishedPort{hosted, meshed}, nil, []NetworkID{IngressNetwork, DefaultBridge}},
		{[]PublishedPort{hosted, meshed}, []NetworkID{own}, []NetworkID{IngressNetwork, own}},
		{[]PublishedPort{meshed}, nil, []NetworkID{IngressNetwork}},
		{[]PublishedPort{meshed}, []NetworkID{own}, []NetworkID{IngressNetwork, own}},
	} {
		s := testService(1, c.publish...)
		s.Networks = c.networks
		if got := s.Uses(); !slices.Equal(got, c.want) {
			t.Errorf("%v on %v uses %v", c.publish, c.networks, got)
		}
	}
}

// The default bridge of one side of a split lost its subnet to the other side's network: the next
// who needs it makes it anew.
func TestDefaultBridgeAnew(t *testing.T) {
	w := newWorld(t, 1)
	writer := testID[NodeID]('a', 1)
	bridge, err := NewDefaultBridge(w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	other, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "other", bridge.Subnet4)
	if err != nil {
		t.Fatal(err)
	}
	w.write(writer, NetworkRecord(other))
	w.write(writer, NetworkRecord(bridge))
	if w.state.Snapshot().Network(DefaultBridge) != nil {
		t.Fatal("both are built")
	}
	anew, err := NewDefaultBridge(w.state.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	w.write(writer, NetworkRecord(anew))
	if snap := w.state.Snapshot(); snap.Network(DefaultBridge) == nil || snap.Network(other.ID) == nil || len(snap.Conflicts) != 0 {
		t.Errorf("%v", snap.Conflicts)
	}
}
