package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// sourcedPlan publishes port 9000 of endpoint 1 for some only.
func sourcedPlan(from ...string) *plan.Plan {
	p := bridged{endpoints: 2, mtu: 1500, device: "eth0"}.plan()
	t := p.Host().Table("inet")
	m := t.Map("hosted4", plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	m.Value = append(m.Value, plan.FieldPort)
	m.Elements = []plan.Element{{Key: "udp . 9000", Value: "172.31.0.2 . 7"}}
	for _, chain := range []string{"prerouting", "output"} {
		t.Chain(chain, "type nat hook "+chain+" priority -100;").Rule("fib daddr type local dnat ip to meta l4proto . th dport map @hosted4")
	}
	if len(from) > 0 {
		var prefixes []netip.Prefix
		for _, f := range from {
			prefixes = append(prefixes, netip.MustParsePrefix(f))
		}
		t.AdmitOnly(plan.Ports{Proto: "udp", First: 9000}, prefixes)
	} else {
		t.Sourced()
	}
	t.Chain("guard", "type filter hook prerouting priority mangle;").Rule("ct state new fib daddr type local jump " + t.Sourced().Name)
	p.Sort()
	return p
}

// Who may not dial a port any more is heard no more, also where the agent was started again
// meanwhile; nobody else notices.
func TestSourcesReachOpenFlows(t *testing.T) {
	inHost(t, func() {
		ip(t, `link set lo up
			link add card type veth peer name wire
			link set card up
			addr add 192.0.2.11/24 dev card`)
		sh(t, "sysctl -qw net.ipv4.ip_forward=1")
		outside, err := kernel.NewWorkload()
		if err != nil {
			t.Fatal(err)
		}
		defer outside.Close()
		far, err := space.Open(outside.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		wire, err := netlink.LinkByName("wire")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetNsFd(wire, int(far.FD())); err != nil {
			t.Fatal(err)
		}
		if out, err := far.Run(t.Context(), "sh", "-c", "ip link set wire up; ip addr add 192.0.2.20/24 dev wire; ip addr add 192.0.2.120/24 dev wire"); err != nil {
			t.Fatal(err, out)
		}
		dir := runDir(t)
		k, err := kernel.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { k.Close() }()
		workloads := pinWorkloads(t, k, sourcedPlan())
		mustApply(t, k, sourcedPlan())
		answering(t, workloads[0], 7, "endpoint")
		dial := func(local string) (a asker) {
			t.Helper()
			if err := far.Do(func() error {
				conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}).Dial("udp4", "192.0.2.11:9000")
				a = asker{conn}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { a.Close() })
			return a
		}
		low, high, own := dial("192.0.2.20"), dial("192.0.2.120"), asking(t, 9000)
		ask := func(when string, wantLow, wantHigh bool) {
			t.Helper()
			for name, c := range map[string]struct {
				a    asker
				want bool
			}{"192.0.2.20": {low, wantLow}, "192.0.2.120": {high, wantHigh}, "the host": {own, true}} {
				if got := c.a.heard(t); got != c.want {
					t.Errorf("%s: %s is answered: %t, want %t", when, name, got, c.want)
				}
			}
		}
		ask("for all", true, true)
		mustApply(t, k, sourcedPlan("192.0.2.0/25"))
		ask("for both", true, true)
		mustApply(t, k, sourcedPlan("192.0.2.0/26"))
		ask("narrowed", true, false)
		mustApply(t, k, sourcedPlan())
		ask("for all again", true, true)
		sh(t, "nft add element inet sluice sourced '{ udp . 9000 }'; nft add element inet sluice sources4 '{ udp . 9000 . 192.0.2.64-192.0.2.127 }'")
		k.Close() // before it had looked at flows
		if k, err = kernel.New(dir); err != nil {
			t.Fatal(err)
		}
		mustApply(t, k, sourcedPlan("192.0.2.64/26"))
		ask("narrowed while away", false, true)
		mustApply(t, k, &plan.Plan{})
	})
}

// heard tells whether a datagram is answered; a few are sent, as one may be lost.
func (a asker) heard(t *testing.T) bool {
	t.Helper()
	buffer := make([]byte, 100)
	for i := range 3 {
		_, _ = fmt.Fprint(a, i)
		if err := a.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Read(buffer); err == nil {
			return true
		}
	}
	return false
}
