package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNetworksNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, 1)
		ingress := *w.state.Snapshot().Network(IngressNetwork)
		ingress.Pool = netip.MustParsePrefix("10.0.0.0/17") // eight subnets
		w.write(testID[NodeID]('a', 1), NetworkRecord(&ingress))
		for i := range 10 {
			var subnet netip.Prefix
			if rapid.IntRange(0, 3).Draw(t, "given") == 0 {
				subnet = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 16 * byte(rapid.IntRange(0, 15).Draw(t, "third"))}), 20)
			}
			n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i), fmt.Sprintf("n%d", i), subnet)
			if err != nil {
				if r := ReasonOf(err); r != PoolExhausted && r != SubnetTaken {
					t.Fatalf("%v", err)
				}
				continue
			}
			w.write(testID[NodeID]('a', 1), NetworkRecord(n))
		}
		snap := w.state.Snapshot()
		if len(snap.Conflicts) != 0 {
			t.Fatalf("%+v", snap.Conflicts)
		}
		for _, n := range snap.Networks {
			if n.blockCount() < 1 {
				t.Fatalf("%+v has no block", n)
			}
			for _, i := range []int{0, n.blockCount() - 1} {
				if !n.has(n.block(i)) {
					t.Fatalf("block %d of %+v is none", i, n)
				}
			}
			if n.has(Block{V4: n.virtual4(), V6: n.block(0).V6}) {
				t.Fatalf("%+v gives away the block of virtual addresses", n)
			}
		}
	})
}

func TestNewNetworkRefuses(t *testing.T) {
	w := newWorld(t, 1)
	n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 1), "blue", netip.MustParsePrefix("10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(testID[NodeID]('a', 1), NetworkRecord(n))
	for _, c := range []struct {
		name, network, subnet string
		want                  Reason
	}{
		{"name taken", "blue", "", NameTaken},
		{"name of the ingress network", "ingress", "", NameTaken},
		{"bad name", "a b", "", BadName},
		{"subnet taken", "green", "10.1.128.0/20", SubnetTaken},
		{"subnet around", "green", "10.0.0.0/8", SubnetTaken},
		{"ingress subnet", "green", "198.18.4.0/24", SubnetTaken},
		{"a node's address", "green", "192.0.2.0/24", SubnetTaken},
		{"host bits", "green", "10.2.3.4/16", BadAddress},
		{"too small", "green", "10.2.0.0/25", BadAddress},
		{"too large", "green", "8.0.0.0/7", BadAddress},
		{"loopback", "green", "127.0.0.0/8", BadAddress},
		{"multicast", "green", "224.0.0.0/8", BadAddress},
		{"link-local", "green", "169.254.0.0/16", BadAddress},
	} {
		t.Run(c.name, func(t *testing.T) {
			var subnet netip.Prefix
			if c.subnet != "" {
				subnet = netip.MustParsePrefix(c.subnet)
			}
			if _, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', 2), c.network, subnet); ReasonOf(err) != c.want {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := newOverlay(new(State).Snapshot(), testID[NetworkID]('b', 2), "green", netip.Prefix{}); ReasonOf(err) != NotFound {
		t.Errorf("outside a cluster: %v", err)
	}
}

// A subnet from the pool does not hold a node's address either.
func TestPoolAroundNode(t *testing.T) {
	w := newWorld(t, 1)
	ingress := *w.state.Snapshot().Network(IngressNetwork)
	ingress.Pool = netip.MustParsePrefix("192.0.0.0/19") // two subnets
	w.write(testID[NodeID]('a', 1), NetworkRecord(&ingress))
	for i := range 2 {
		n, err := newOverlay(w.state.Snapshot(), testID[NetworkID]('b', i+1), fmt.Sprintf("n%d", i), netip.Prefix{})
		if i == 0 && err == nil && !n.Subnet4.Contains(testNode(1).Addr) {
			w.write(testID[NodeID]('a', 1), NetworkRecord(n))
			continue
		}
		if i == 0 || ReasonOf(err) != PoolExhausted {
			t.Fatalf("network %d is %v, %v", i, n, err)
		}
	}
}

func TestOutside(t *testing.T) {
	n := testNode(1)
	if err := n.Outside(DefaultIngress(), DefaultPool(), netip.Prefix{}); err != nil {
		t.Error(err)
	}
	err := n.Outside(DefaultIngress(), netip.MustParsePrefix("192.0.2.0/24"))
	if ReasonOf(err) != SubnetTaken || !strings.Contains(err.Error(), `"n1"`) {
		t.Error(err)
	}
}

func TestOverlayMTU(t *testing.T) {
	four, six := testNode(1), testNode(2)
	six.Addr = netip.MustParseAddr("2001:db8::1")
	if got := OverlayMTU([]*Node{four}); got != 1450 {
		t.Errorf("IPv4: %d", got)
	}
	if got := OverlayMTU([]*Node{four, six}); got != 1430 {
		t.Errorf("IPv6: %d", got)
	}
	// The least MTU that Validate lets pass leaves IPv6 its 1280 bytes.
	for six.MTU = 1; six.Validate() != nil; six.MTU++ {
	}
	if got := OverlayMTU([]*Node{four, six}); got != 1280 {
		t.Errorf("least: %d", got)
	}
}
