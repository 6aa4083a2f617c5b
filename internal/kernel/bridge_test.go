package kernel_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

const bridgeNetwork = "n0000000000000001"

// bridged is a plan of a bridge with endpoints on it, 1 and up.
type bridged struct {
	endpoints int
	isolated  bool
	mtu       int
	net, id   byte   // of its addresses, and of the network and its endpoints
	device    string // in the endpoints
	more      func(e int, endpoint, host *plan.Sandbox)
}

func bridgedEndpoint(i int) string { return plan.EndpointSandbox(fmt.Sprintf("e%016x", i)) }

func (b bridged) addr(i int) (v4, v6 netip.Prefix) {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 31, b.net, byte(i + 1)}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x31, 2: b.net, 15: byte(i + 1)}), 64)
}

func (b bridged) plan() *plan.Plan {
	p := &plan.Plan{}
	host := p.Host()
	network := bridgeNetwork[:len(bridgeNetwork)-2] + fmt.Sprintf("%02x", b.id+1)
	name := plan.BridgeLink(network)
	if b.endpoints > 0 {
		host.Links = append(host.Links, plan.Link{Name: name, Kind: plan.LinkBridge, MTU: b.mtu})
		v4, v6 := b.addr(0)
		host.Addrs = append(host.Addrs, plan.Addr{Link: name, Prefix: v4}, plan.Addr{Link: name, Prefix: v6})
	}
	for i := 1; i <= b.endpoints; i++ {
		s := p.Sandbox(bridgedEndpoint(int(b.id)<<8+i), plan.KindEndpoint)
		v4, v6 := b.addr(i)
		port := plan.BridgePort(s.Name, network)
		mac := plan.BridgedMAC(v4.Addr())
		host.Links = append(host.Links, plan.Link{
			Name: port, Kind: plan.LinkVeth, MTU: b.mtu, Master: name, Isolated: b.isolated, Peer: plan.Peer{Sandbox: s.Name, Link: b.device, MAC: mac},
		})
		s.Links = append(s.Links, plan.Link{
			Name: b.device, Kind: plan.LinkVeth, MTU: b.mtu, MAC: mac, Announced: true, Peer: plan.Peer{Sandbox: plan.HostSandbox, Link: port},
		})
		s.Addrs = append(s.Addrs, plan.Addr{Link: b.device, Prefix: v4}, plan.Addr{Link: b.device, Prefix: v6})
		gateway4, gateway6 := b.addr(0)
		s.Routes = append(
			s.Routes,
			plan.Route{Kind: plan.RouteVia, Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: gateway4.Addr(), Link: b.device},
			plan.Route{Kind: plan.RouteVia, Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: gateway6.Addr(), Link: b.device},
		)
		if b.more != nil {
			b.more(i, s, host)
		}
	}
	p.Sort()
	return p
}

// in runs a command in an endpoint's namespace and gives its output.
func in(t *testing.T, k *kernel.Kernel, sandbox string, command ...string) (string, error) {
	t.Helper()
	s, err := space.Open(k.Path(sandbox))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Run(t.Context(), command[0], command[1:]...)
}

// echoes asks by echo, a few times: the first may be lost while a device comes up.
func echoes(t *testing.T, k *kernel.Kernel, from string, to netip.Addr) bool {
	t.Helper()
	_, err := in(t, k, from, "ping", "-c1", "-i0.2", "-w1", to.String())
	return err == nil
}

// wantReach asks from endpoint 1 to endpoint 2 and to the gateway, by both families.
func wantReach(t *testing.T, k *kernel.Kernel, b bridged, neighbour bool) {
	t.Helper()
	for i, want := range map[int]bool{0: true, 2: neighbour} {
		v4, v6 := b.addr(i)
		for _, to := range []netip.Addr{v4.Addr(), v6.Addr()} {
			if got := echoes(t, k, bridgedEndpoint(1), to); got != want {
				t.Errorf("endpoint 1 reaches %s: %t, want %t", to, got, want)
			}
		}
	}
}

// A bridge with its ports is built, changed while it lives, found again, mended and taken
// away, by the kernel and by the fake alike.
func TestBridge(t *testing.T) {
	steps := []struct {
		name string
		bridged
		neighbour bool
	}{
		{"two endpoints", bridged{endpoints: 2, mtu: 1500, device: "slbtest"}, true},
		{"isolated", bridged{endpoints: 2, mtu: 1500, device: "slbtest", isolated: true}, false},
		{"a third", bridged{endpoints: 3, mtu: 1500, device: "slbtest", isolated: true}, false},
		{"small packets", bridged{endpoints: 2, mtu: 1300, device: "slbtest"}, true},
		{"another name", bridged{endpoints: 2, mtu: 1400, device: "eth0"}, true},
	}
	fake := kernel.NewFake()
	inHost(t, func() {
		ip(t, "link set lo up")
		dir := t.TempDir()
		for _, s := range steps {
			k, err := kernel.New(dir) // as an agent that was started again
			if err != nil {
				t.Fatal(err)
			}
			p := s.plan()
			pinWorkloads(t, k, p)
			for _, e := range endpoints(p) {
				fake.PinAbsent(e)
			}
			mustApply(t, k, p)
			mustApply(t, fake, p)
			t.Log(s.name)
			wantReach(t, k, s.bridged, s.neighbour)
			if t.Failed() {
				t.FailNow()
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		k, err := kernel.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := steps[len(steps)-1].plan()
		for _, damage := range []string{
			"link del " + plan.BridgeLink(bridgeNetwork),
			"link set " + plan.BridgeLink(bridgeNetwork) + " type bridge mcast_snooping 1",
			"link set " + plan.BridgeLink(bridgeNetwork) + " down",
			"link set " + plan.BridgePort(bridgedEndpoint(1), bridgeNetwork) + " nomaster",
			"link set " + plan.BridgePort(bridgedEndpoint(1), bridgeNetwork) + " type bridge_slave isolated on",
			"link del " + plan.BridgePort(bridgedEndpoint(2), bridgeNetwork),
		} {
			ip(t, damage)
			mustApply(t, k, p)
			wantReach(t, k, bridged{}, true)
			if t.Failed() {
				t.Fatalf("after %s", damage)
			}
		}
		mustApply(t, k, &plan.Plan{})
		mustApply(t, fake, &plan.Plan{})
		if left := strings.TrimSpace(sh(t, "ip -o link | grep -v ' lo:' || true")); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

// A bridge keeps address and MTU, whatever ports come.
func TestBridgeIsItsOwn(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		p := bridged{endpoints: 1, mtu: 1500, device: "slbtest"}.plan()
		pinWorkloads(t, k, p)
		mustApply(t, k, p)
		bridge := func() *netlink.Bridge {
			l, err := netlink.LinkByName(plan.BridgeLink(bridgeNetwork))
			if err != nil {
				t.Fatal(err)
			}
			return l.(*netlink.Bridge)
		}
		defer k.Apply(t.Context(), &plan.Plan{})
		before := bridge()
		ip(t, `link add low type veth peer name lowpeer
			link set low address 02:00:00:00:00:01
			link set low mtu 1280
			link set low master `+before.Name+`
			link set low up
			link set lowpeer up`)
		after := bridge()
		if after.HardwareAddr.String() != before.HardwareAddr.String() || after.MTU != 1500 || *after.MulticastSnooping {
			t.Errorf("bridge has %s, MTU %d, snooping %t; want %s, 1500, false", after.HardwareAddr, after.MTU, *after.MulticastSnooping, before.HardwareAddr)
		}
		if stp := strings.TrimSpace(sh(t, "cat /sys/class/net/"+before.Name+"/bridge/stp_state 2>/dev/null || echo 0")); stp != "0" {
			t.Errorf("spanning tree is %s", stp)
		}
	})
}

// Somebody's own device with the name that ours is to have is left alone, and nothing is made.
func TestBridgedNameIsTaken(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		p := bridged{endpoints: 1, mtu: 1500, device: "eth0"}.plan()
		pinWorkloads(t, k, p)
		if _, err := in(t, k, bridgedEndpoint(1), "ip", "link", "add", "eth0", "type", "bridge"); err != nil {
			t.Fatal(err)
		}
		report := k.Apply(t.Context(), p)
		refused := 0
		for _, f := range report.Failed {
			if f.Reason != plan.KernelRefused {
				t.Errorf("%v: reason %s", f, f.Reason)
			}
			if strings.Contains(f.Error(), "a device named eth0 that is not ours is in "+bridgedEndpoint(1)+": remove or rename it") {
				refused++
			}
		}
		if refused < 2 { // one for each end
			t.Errorf("failures: %v", report.Failed)
		}
		if out, err := exec.Command("ip", "link", "show", plan.BridgePort(bridgedEndpoint(1), bridgeNetwork)).CombinedOutput(); err == nil {
			t.Errorf("half a pair was made: %s", out)
		}
		if out, err := in(t, k, bridgedEndpoint(1), "ip", "-d", "-o", "link", "show", "eth0"); err != nil || !strings.Contains(out, "bridge") || strings.Contains(out, "alias") {
			t.Errorf("the device is %s, %v", out, err)
		}
		if _, err := in(t, k, bridgedEndpoint(1), "ip", "link", "del", "eth0"); err != nil {
			t.Fatal(err)
		}
		mustApply(t, k, p)
		mustApply(t, k, &plan.Plan{})
	})
}

// An endpoint may be the host of an agent of its own: neither takes the other's devices.
func TestAgentInAnEndpoint(t *testing.T) {
	inHost(t, func() {
		outer := newKernel(t)
		defer outer.Close()
		p := bridged{endpoints: 1, mtu: 1500, device: "eth0"}.plan()
		workload := pinWorkloads(t, outer, p)[0]
		mustApply(t, outer, p)
		s, err := space.Open(workload.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var ops []kernel.Op
		err = s.Do(func() error {
			inner, err := kernel.New(t.TempDir())
			if err != nil {
				return err
			}
			defer inner.Close()
			q := bridged{endpoints: 2, mtu: 1400, device: "eth0", net: 1}.plan()
			pinWorkloads(t, inner, q)
			failed := inner.Apply(t.Context(), q).Failed
			failed = append(failed, outer.Apply(t.Context(), p).Failed...)
			if ops, err = inner.Diff(t.Context(), q); err != nil {
				return err
			}
			if failed = append(failed, inner.Apply(t.Context(), &plan.Plan{}).Failed...); len(failed) > 0 {
				return failed[0]
			}
			return nil
		})
		if err != nil || len(ops) > 0 {
			t.Errorf("the outer agent changed what is the inner one's: %v, %v", ops, err)
		}
		if ops, err := outer.Diff(t.Context(), p); err != nil || len(ops) > 0 {
			t.Errorf("the inner agent took what is the outer one's: %v, %v", ops, err)
		}
		mustApply(t, outer, &plan.Plan{})
	})
}
