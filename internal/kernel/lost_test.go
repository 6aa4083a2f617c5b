package kernel

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Flows of an address that goes are forgotten in the host; those of addresses that stay,
// of others' NAT, and of the node's own processes at loopback are not.
func TestForgetLost(t *testing.T) {
	host := testNamespace(t)
	host.name, host.kind = plan.HostSandbox, plan.KindHost
	lo, err := host.link.LinkByName("lo")
	if err == nil {
		err = host.link.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	address := func(text string) *netlink.Addr {
		return &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(text))}
	}
	for _, text := range []string{"192.0.2.1/32", "192.0.2.200/32", "2001:db8::200/128"} {
		if err := host.link.AddrAdd(lo, address(text)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := newMonitor(host, t.TempDir(), &writers{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	k := &Kernel{host: host, netnsDir: t.TempDir(), monitor: m}
	insert(t, host, 0, "tcp 192.0.2.7:4000 192.0.2.200:8080 169.254.77.2:8080 192.0.2.7:4000")
	insert(t, host, 0, "udp [2001:db8::7]:4000 [2001:db8::200]:8080 [fd77::2]:8080 [2001:db8::7]:1024")
	insert(t, host, 0, "tcp 192.0.2.7:4001 192.0.2.1:8080 169.254.77.2:8080 192.0.2.7:4001")
	insert(t, host, 0, "tcp 192.0.2.7:4002 192.0.2.200:9090 172.17.0.2:9090 192.0.2.7:4002")
	insert(t, host, 0, "tcp 127.0.0.1:4003 127.0.0.1:8080 169.254.77.2:8080 169.254.77.1:4003")
	if lost, err := k.ForgetLost(); err != nil || len(lost) > 0 {
		t.Fatalf("before anything went: %v, %v", lost, err)
	}
	for _, text := range []string{"192.0.2.200/32", "2001:db8::200/128"} {
		if err := host.link.AddrDel(lo, address(text)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-k.Lost():
	case <-time.After(5 * time.Second):
		t.Error("nobody was told that an address went")
	}
	lost, err := k.ForgetLost()
	want := []Sender{{"tcp", netip.MustParseAddrPort("192.0.2.7:4000")}, {"udp", netip.MustParseAddrPort("[2001:db8::7]:1024")}}
	slices.SortFunc(lost, func(a, b Sender) int { return a.Client.Compare(b.Client) })
	if err != nil || !slices.Equal(lost, want) {
		t.Errorf("lost are %v, %v, want %v", lost, err, want)
	}
	wantRemembered(
		t, host,
		"tcp 127.0.0.1:4003 seen as 169.254.77.1:4003",
		"tcp 192.0.2.7:4001 seen as 192.0.2.7:4001",
		"tcp 192.0.2.7:4002 seen as 192.0.2.7:4002",
	)
}
