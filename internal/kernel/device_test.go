package kernel_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// wantInTheWay applies and wants the device refused by name, and nothing else to fail.
func wantInTheWay(t *testing.T, k *kernel.Kernel, p *plan.Plan) {
	t.Helper()
	report := k.Apply(t.Context(), p)
	if len(report.Failed) == 0 {
		t.Error("nothing was refused")
	}
	for _, f := range report.Failed {
		if f.Reason != plan.KernelRefused || !strings.Contains(f.Error(), "a device named eth0 that is not ours") {
			t.Errorf("%v: reason %s", f, f.Reason)
		}
	}
}

// A device that has the name of ours and is not gets no address, route or setting of ours,
// and keeps what it has.
func TestForeignDeviceIsLeftAlone(t *testing.T) {
	inHost(t, func() {
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := bridged{endpoints: 1, mtu: 1500, device: "eth0", more: func(_ int, s, _ *plan.Sandbox) {
			s.Sysctls = plan.Inside("eth0", []struct{ Family, Table, Key, Value string }{{"ipv4", "conf", "log_martians", "1"}})
		}}.plan()
		pinWorkloads(t, k, p)
		inside := func(command string) string {
			t.Helper()
			out, err := in(t, k, bridgedEndpoint(1), "sh", "-c", command)
			if err != nil {
				t.Fatal(err, out)
			}
			return out
		}
		inside(`ip link add eth0 type veth peer name other && ip link set eth0 up && ip link set other up
			sysctl -qw net.ipv4.conf.eth0.log_martians=0 net.ipv6.conf.eth0.accept_ra=1
			ip addr add 10.9.9.2/24 dev eth0 && ip addr add fd09::2/64 dev eth0 nodad && ip route add default via 10.9.9.1`)
		const look = `ip -o addr show scope global | sed 's/.*inet/inet/'; ip route; ip -6 route show default; sysctl net.ipv4.conf.eth0.log_martians net.ipv6.conf.eth0.accept_ra`
		before := inside(look)
		wantInTheWay(t, k, p)
		if after := inside(look); after != before {
			t.Errorf("it was\n%s\nand is\n%s", before, after)
		}
		mustApply(t, k, &plan.Plan{})
	})
}

// A workload that puts a device without a MAC address, or none of ours, in the place of ours
// harms itself only.
func TestDeviceWithoutMAC(t *testing.T) {
	for _, alias := range []string{"", plan.EndpointAlias} {
		inHost(t, func() {
			k, err := kernel.New(runDir(t))
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			p := bridged{endpoints: 2, mtu: 1500, device: "eth0"}.plan()
			pinWorkloads(t, k, p)
			mustApply(t, k, p)
			if out, err := in(t, k, bridgedEndpoint(1), "sh", "-c", "ip link del eth0 && ip tuntap add eth0 mode tun && ip link set eth0 up alias '"+alias+"'"); err != nil {
				t.Fatal(err, out)
			}
			if alias == "" {
				wantInTheWay(t, k, p)
				if out, _ := in(t, k, bridgedEndpoint(1), "ip", "-o", "addr", "show", "scope", "global"); out != "" {
					t.Errorf("it has addresses: %s", out)
				}
				if _, err := in(t, k, bridgedEndpoint(1), "ip", "link", "del", "eth0"); err != nil {
					t.Fatal(err)
				}
			}
			mustApply(t, k, p)
			wantReach(t, k, bridged{}, true)
			mustApply(t, k, &plan.Plan{})
		})
	}
}

// Who gets another MAC address has it told to those who remember the first.
func TestChangedMACIsAnnounced(t *testing.T) {
	inHost(t, func() {
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := bridged{endpoints: 2, mtu: 1500, device: "eth0"}.plan()
		pinWorkloads(t, k, p)
		mustApply(t, k, p)
		wantReach(t, k, bridged{}, true)
		mac := plan.MAC{0x02, 0, 0, 0, 0, 0x77}
		for _, s := range p.Sandboxes {
			for i := range s.Links {
				if s.Name == bridgedEndpoint(2) {
					s.Links[i].MAC = mac
				}
				if s.Links[i].Peer.Sandbox == bridgedEndpoint(2) {
					s.Links[i].Peer.MAC = mac
				}
			}
		}
		frames := listening(t, k.Path(bridgedEndpoint(1)))
		mustApply(t, k, p)
		var told []string
		for _, f := range frames() {
			if len(f) >= 42 && slices.Equal(f[6:12], mac[:]) && (f[12] == 8 && f[13] == 6 || len(f) >= 78 && f[54] == 136) {
				told = append(told, string(f[12:14]))
			}
		}
		slices.Sort(told)
		if told = slices.Compact(told); len(told) != 2 {
			t.Errorf("announced by %q, want ARP and IPv6", told)
		}
		mustApply(t, k, &plan.Plan{})
	})
}

// A workload is no router of the host, of a sandbox or of another workload, whatever the
// machine's settings for new devices say: a device of ours is deaf before it is up.
func TestNewDevicesHeedNoRouter(t *testing.T) {
	inHost(t, func() {
		sh(t, "sysctl -qw net.ipv6.conf.default.accept_ra=2 net.ipv6.conf.all.accept_ra=2")
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := bridged{endpoints: 1, mtu: 1500, device: "eth0"}.plan()
		pinWorkloads(t, k, p)
		heeds := map[string]string{} // when it was up first
		kernel.SetStages(k, func(string) {
			links, err := netlink.LinkList()
			if err != nil {
				t.Error(err)
			}
			for _, l := range links {
				name := l.Attrs().Name
				if _, seen := heeds[name]; seen || name == "lo" || l.Attrs().Flags&net.FlagUp == 0 {
					continue
				}
				heeds[name] = strings.TrimSpace(sh(t, "cat /proc/sys/net/ipv6/conf/"+name+"/accept_ra"))
			}
		})
		mustApply(t, k, p)
		kernel.SetStages(k, nil)
		if len(heeds) != 2 { // the bridge and its port
			t.Errorf("devices seen up: %v", heeds)
		}
		for device, value := range heeds {
			if value != "0" {
				t.Errorf("%s is up with accept_ra %s", device, value)
			}
		}
		mustApply(t, k, &plan.Plan{})
	})
}
