package kernel_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

func inspection(t *testing.T) kernel.Inspection {
	t.Helper()
	return kernel.Inspection{
		RunDir: filepath.Join(t.TempDir(), "run"), DataDir: t.TempDir(), DataFile: "sluice.db", GossipPort: 7956, VXLANPort: 4789,
		Balancer: "ipvs", Schedulers: []string{"mh"},
	}
}

// Everything that a check is made of is read from a host that has it.
func TestInspect(t *testing.T) {
	inHost(t, func() {
		q := inspection(t)
		ip(t, `link add eth0 mtu 1400 type veth peer name far
			addr add 192.0.2.11/24 dev eth0
			link set eth0 up
			link set far up
			link add card type bridge
			link set card up
			addr add 10.200.0.1/32 dev card
			route add default via 192.0.2.1 src 192.0.2.11
			route add 198.18.64.0/18 via 192.0.2.9
			route add blackhole 169.254.77.0/25
			route add 203.0.113.0/24 dev card proto 83
			link add mine type bridge
			link set mine alias sluice
			link add theirs type vxlan id 1048576 dstport 4789 local 192.0.2.11
			link set theirs up`)
		for setting, value := range map[string]string{"net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.card.rp_filter": "1", "net.ipv4.ip_forward": "0"} {
			if out, err := exec.Command("sysctl", "-qw", setting+"="+value).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		if out, err := exec.Command("nft", "add table inet sluice; add table inet other; add chain inet other c { type filter hook input priority 0; ct state new counter; }").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		listener, err := net.Listen("tcp", "192.0.2.11:7956")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		f := kernel.Inspect(q)
		for _, u := range f.Unread {
			t.Errorf("%s was not read: %s", u.What, u.Why)
		}
		inspectedNetwork(t, &f)
		if !slices.Equal(f.Marked, []string{"link mine", "table inet sluice"}) {
			t.Errorf("marked: %q", f.Marked)
		}
		if len(f.Conntrack) != 1 || f.Conntrack[0].Sandbox != plan.HostSandbox || f.Conntrack[0].Max <= 0 {
			t.Errorf("conntrack: %+v", f.Conntrack)
		}
		if len(f.Forwarding) != 2 || f.Forwarding[0] != (doctor.Forwarding{Key: "net/ipv4/ip_forward", Now: "0"}) {
			t.Errorf("forwarding: %+v", f.Forwarding)
		}
		if !slices.Contains(f.ReverseFilter, doctor.Filter{Device: "card", Value: "1"}) {
			t.Errorf("rp_filter: %+v", f.ReverseFilter)
		}
		if !f.Rights.NetAdmin || !f.Rights.SysAdmin || f.RunDir.Exists || !f.DataDir.Exists || f.DataDir.Holds || f.DataDir.Free == 0 || f.DataDir.Filesystem == "" {
			t.Errorf("rights %+v, run directory %+v, data directory %+v", f.Rights, f.RunDir, f.DataDir)
		}
		for _, p := range f.Programs {
			if p.Name == "nft" && (p.Path == "" || strings.Count(p.Version, ".") < 1) {
				t.Errorf("program %+v", p)
			}
		}
	})
}

func inspectedNetwork(t *testing.T, f *doctor.Facts) {
	t.Helper()
	if want := (doctor.Underlay{Addr: netip.MustParseAddr("192.0.2.11"), Device: "eth0", MTU: 1400}); f.Underlay != want {
		t.Errorf("underlay: %+v", f.Underlay)
	}
	occupied := fmt.Sprint(f.Occupied)
	for _, want := range []string{
		"{192.0.2.0/24 route dev eth0}", "{198.18.64.0/18 route via 192.0.2.9 dev eth0}", "{10.200.0.1/32 address of card}", "{169.254.77.0/25 route",
	} {
		if !strings.Contains(occupied, want) {
			t.Errorf("no %s in %s", want, occupied)
		}
	}
	if strings.Contains(occupied, "203.0.113") || strings.Contains(occupied, "fe80") || strings.Contains(occupied, "0.0.0.0/0") {
		t.Errorf("occupied: %s", occupied)
	}
	if want := []doctor.Tunnel{{Name: "theirs", VNI: 1048576, Port: 4789}}; !slices.Equal(f.Tunnels, want) {
		t.Errorf("tunnels: %+v", f.Tunnels)
	}
	if len(f.Ports) != 3 || !slices.Equal(f.Ports[0].Holders, []doctor.Holder{{PID: os.Getpid(), Name: "kernel.test"}}) || len(f.Ports[1].Holders) > 0 ||
		!slices.Equal(f.Ports[2].Holders, []doctor.Holder{{Kernel: true}}) {
		t.Errorf("ports: %+v", f.Ports)
	}
}

// What the agent made is told from what it found.
func TestInspectSandboxes(t *testing.T) {
	inHost(t, func() {
		q := inspection(t)
		k, err := kernel.New(q.RunDir)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		mustApply(t, k, &plan.Plan{Sandboxes: []*plan.Sandbox{
			{Name: plan.HostSandbox, Kind: plan.KindHost, Sysctls: []plan.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}}},
			{Name: plan.IngressSandbox, Kind: plan.KindIngress},
		}})
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		dead := filepath.Join(q.RunDir, "netns", "ep-d000000000000001")
		if err := os.WriteFile(dead, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		captures := filepath.Join(q.RunDir, kernel.CapturesName) // of an agent that died meanwhile
		for _, file := range []string{captures, filepath.Join(q.DataDir, q.DataFile)} {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f := kernel.Inspect(q)
		if !f.RunDir.Exists || !slices.Equal(f.RunDir.Sandboxes, []string{plan.IngressSandbox}) || !slices.Equal(f.RunDir.Dead, []string{"ep-d000000000000001"}) || !f.DataDir.Holds {
			t.Errorf("run directory %+v, data %+v", f.RunDir, f.DataDir)
		}
		if got := f.Forwarding[0]; got.Now != "1" || got.Before != "0" && got.Before != "1" {
			t.Errorf("forwarding: %+v", got)
		}
		for _, want := range []string{"sandbox ingress-sbox", filepath.Join(q.RunDir, kernel.SettingsName), captures} {
			if !slices.Contains(f.Marked, want) {
				t.Errorf("%q is not marked: %q", want, f.Marked)
			}
		}
	})
}

// Features are tried one by one, and leave nothing.
func TestInspectFeatures(t *testing.T) {
	f := kernel.Inspect(inspection(t))
	missing := map[string]string{}
	for _, feature := range f.Features {
		missing[feature.Name] = feature.Missing
		if feature.Do == "" || strings.Contains(feature.Missing, "\n") {
			t.Errorf("%+v", feature)
		}
	}
	for _, name := range []string{
		"network namespaces", "VXLAN", "nf_tables", "nf_tables inet NAT", "nf_tables fib", "nf_tables conntrack zones",
		"nf_tables reject", "nf_tables numgen and jhash", "nf_tables netdev egress", "IPv6", "policy routing", "route_localnet",
	} {
		if why, tried := missing[name]; !tried || why != "" {
			t.Errorf("%s: tried %t, missing %q", name, tried, why)
		}
	}
	hasIPVS := kernel.HasIPVS()
	for _, name := range []string{"IP_VS", "IP_VS scheduler mh"} {
		if why, tried := missing[name]; !tried && (hasIPVS || name == "IP_VS") || (why == "") != (hasIPVS || !tried) {
			t.Errorf("%s: tried %t, missing %q, and IP_VS is there: %t", name, tried, why, hasIPVS)
		}
	}
}
