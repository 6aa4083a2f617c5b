package doctor

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// host is a healthy one, with an agent in a cluster of two.
func host() *Facts {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	dir := Dir{Path: "/d", Exists: true, Filesystem: "tmpfs", Free: 1 << 30, FreeInodes: 1000}
	disk := dir
	disk.Filesystem = "ext4"
	return &Facts{
		Features:   []Feature{{Name: "VXLAN", Do: "modprobe vxlan"}},
		Balancer:   Balancer{"nft", "auto"},
		Programs:   []Program{{"nft", "/usr/sbin/nft", "1.0.6"}, {"modprobe", "/sbin/modprobe", ""}, {"iptables", "", ""}},
		Rights:     Rights{0, true, true},
		RunDir:     RunDir{Dir: dir, Shared: true, Sandboxes: []string{"ingress-sbox"}},
		DataDir:    DataDir{Dir: disk, Holds: true},
		Ports:      []Port{{"gossip", "tcp", 7956, []Holder{{PID: 7, Name: "sluice"}}}, {"vxlan", "udp", 4789, []Holder{{Kernel: true}}}},
		Underlay:   Underlay{Addr: netip.MustParseAddr("192.0.2.1"), Device: "eth0", MTU: 1500},
		Occupied:   []Occupied{{netip.MustParsePrefix("192.0.2.0/24"), "route dev eth0"}},
		Claims:     []Claim{{netip.MustParsePrefix("169.254.77.0/24"), UseUplink, "the uplink"}, {netip.MustParsePrefix("10.192.16.0/20"), UseNetwork, "network back"}, {netip.MustParsePrefix("10.192.0.0/10"), UsePool, "the pool"}},
		Firewalls:  []Firewall{{Table: "iptables table filter", Chains: []string{"FORWARD"}, Forward: Let}},
		Forwarding: []Forwarding{{"net/ipv4/ip_forward", "1", "0"}},
		Conntrack:  []Conntrack{{"host", 10, 1000}, {"ingress-sbox", 20, 1000}},
		Neighbours: []Neighbours{{"ipv4", 100, 1024}},
		Now:        noon,
		Agent: Agent{
			State: Running, Socket: "/s", PID: 7, Version: "v1", InCluster: true, Applied: true, Needs: 1450, Published: 1,
			VNIs: map[uint32]string{1048576: "ingress"}, Peers: []Peer{{Name: "n2", State: "alive", Since: noon, MTU: 1500}},
		},
	}
}

func TestHealthy(t *testing.T) {
	checks := Judge(host())
	for _, c := range checks {
		if c.State != OK || c.Seen == "" || c.Do != "" {
			t.Errorf("%+v", c)
		}
	}
	if Failed(checks) || len(checks) < 20 {
		t.Errorf("failed %t, %d checks", Failed(checks), len(checks))
	}
}

// Each case spoils one thing of a healthy host: that check says so, and no other.
func TestJudge(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		name  string
		spoil func(*Facts)
		want  string // "STATE NAME: part of seen"
		do    string // part of what to do
	}{
		{"feature", func(f *Facts) { f.Features[0].Missing = "no such device type" }, "fail kernel VXLAN: cannot be used: no such device type", "modprobe vxlan"},
		{
			"feature that can be done without", func(f *Facts) { f.Features[0].Missing, f.Features[0].Without = "no", "less is kept" },
			"warn kernel VXLAN: cannot be used: no; less is kept", "modprobe",
		},
		{"spare feature", func(f *Facts) { f.Features[0].Missing, f.Features[0].Spare = "no", true }, "warn kernel VXLAN: cannot be used, and nothing uses it now: no", "modprobe"},
		{"firewall that nobody opened", func(f *Facts) { f.Firewalls[0].Forward = Forbidden }, "fail forwarding by iptables table filter: it drops what no rule names (FORWARD)", "sluice status"},
		{"firewall that cannot be read", func(f *Facts) { f.Firewalls[0].Unread = "no iptables" }, "warn forwarding by iptables table filter: its rules cannot be read: no iptables", "sl-ingress"},
		{"closed port", func(f *Facts) { f.Firewalls[0].Closed = []Closed{{"tcp/7956", "ufw allow 7956/tcp"}} }, "warn receiving by iptables table filter: it may drop tcp/7956", "ufw allow 7956/tcp"},
		{"no balancer", func(f *Facts) { f.Balancer = Balancer{Why: "this kernel has no IP_VS"} }, "fail balancer: this kernel has no IP_VS", "--balancer auto or nft"},
		{"no nft", func(f *Facts) { f.Programs[0] = Program{Name: "nft"} }, "fail program nft: there is none", "apt-get install nftables"},
		{"old nft", func(f *Facts) { f.Programs[0].Version = "1.0.5" }, "fail program nft: /usr/sbin/nft is version 1.0.5", "1.0.6"},
		{"odd nft", func(f *Facts) { f.Programs[0].Version = "" }, "fail program nft: /usr/sbin/nft is version unknown", "1.0.6"},
		{"no modprobe", func(f *Facts) { f.Programs[1].Path = "" }, "warn program modprobe: there is none", "kmod"},
		{"no right", func(f *Facts) { f.Rights = Rights{UID: 1000} }, "fail rights: uid 1000 lacks CAP_NET_ADMIN and CAP_SYS_ADMIN", "as root"},
		{"half a right", func(f *Facts) { f.Rights.SysAdmin = false }, "fail rights: uid 0 lacks CAP_SYS_ADMIN", "as root"},
		{"run directory refused", func(f *Facts) { f.RunDir.Refused = "read-only file system" }, "fail run directory: /d cannot be written to: read-only", "--run-dir"},
		{"hidden mounts", func(f *Facts) { f.RunDir.OwnMounts, f.RunDir.Shared = true, false }, "fail run directory: /d on tmpfs, 1 sandbox mounted; the agent has mounts of its own", "mount --make-shared /d"},
		{"dead mount", func(f *Facts) { f.RunDir.Dead = []string{"ep-1"} }, "fail run directory: /d on tmpfs, 1 sandbox mounted; not mounted any more: ep-1", "attach them again"},
		{"full disk", func(f *Facts) { f.DataDir.Free = 1 << 20 }, "fail data directory: /d on ext4, 1 MiB free", "make room"},
		{"nearly full disk", func(f *Facts) { f.DataDir.Free = 100 << 20 }, "warn data directory: /d on ext4, 100 MiB free", "make room"},
		{"no inodes", func(f *Facts) { f.DataDir.FreeInodes = 3 }, "fail data directory: /d on ext4, 1024 MiB free, room for 3 more files", "make room"},
		{"data in memory", func(f *Facts) { f.DataDir.Filesystem = "tmpfs" }, "warn data directory: /d on tmpfs", "--data-dir"},
		{"data directory refused", func(f *Facts) { f.DataDir.Refused = "read-only file system" }, "fail data directory: /d cannot be written to", "--data-dir"},
		{"port held", func(f *Facts) { f.Ports[0].Holders[0] = Holder{PID: 12, Name: "consul"} }, "fail port gossip tcp: 7956 is held by consul (pid 12)", "--gossip-port"},
		{"port held by the unknown", func(f *Facts) { f.Ports[0].Holders[0] = Holder{} }, "fail port gossip tcp: 7956 is held by an unknown process", "stop it"},
		{"port not held", func(f *Facts) { f.Ports[0].Holders = nil }, "fail port gossip tcp: 7956 is held by nobody", "log"},
		{"tunnel port held", func(f *Facts) { f.Ports[1].Holders[0] = Holder{PID: 9, Name: "vpn"} }, "fail port vxlan udp: 4789 is held by vpn (pid 9)", "--vxlan-port"},
		{"same VNI", func(f *Facts) { f.Tunnels = []Tunnel{{Name: "flannel.1", VNI: 1048576, Port: 4789}} }, "fail tunnels: device flannel.1 has VNI 1048576 on port 4789, which is network ingress's", "ip link delete flannel.1"},
		{"all VNIs", func(f *Facts) { f.Tunnels = []Tunnel{{Name: "cilium", Port: 4789, External: true}} }, "warn tunnels: device cilium takes the packets of all VNIs", "--vxlan-port"},
		{"no underlay", func(f *Facts) { f.Underlay = Underlay{Missing: "no default route"} }, "fail underlay: no default route", "--advertise"},
		{"small MTU", func(f *Facts) { f.Underlay.MTU, f.Agent.Needs = 1300, 1250 }, "fail mtu: 1300 leave 1250 in a tunnel, and IPv6 needs 1280", "ip link set eth0 mtu 1330"},
		{"shrunk MTU", func(f *Facts) { f.Underlay.MTU = 1400 }, "fail mtu: 1400 leave 1350 in a tunnel, and the cluster uses 1450", "ip link set eth0 mtu 1500"},
		{"route in uplink", func(f *Facts) { f.Occupied[0] = Occupied{prefix("169.254.77.0/25"), "route dev x"} }, "fail overlap: 169.254.77.0/25 (route dev x) overlaps 169.254.77.0/24, the uplink", "remove"},
		{"address in network", func(f *Facts) { f.Occupied[0] = Occupied{prefix("10.192.16.9/32"), "address of x"} }, "warn overlap: 10.192.16.9/32 (address of x) overlaps 10.192.16.0/20, network back", "other addresses"},
		{"route around pool", func(f *Facts) { f.Occupied[0] = Occupied{prefix("10.224.0.0/12"), "route dev x"} }, "warn overlap: 10.224.0.0/12 (route dev x) overlaps 10.192.0.0/10, the pool", "--subnet"},
		{"forwarding off", func(f *Facts) { f.Forwarding[0].Now = "0" }, "fail forwarding ipv4/ip_forward: off", "sluice status"},
		{"no IPv6", func(f *Facts) { f.Forwarding[0] = Forwarding{Key: "net/ipv6/conf/all/forwarding"} }, "fail forwarding ipv6/conf/all/forwarding: this host has no such setting", "boot"},
		{"conntrack near its limit", func(f *Facts) { f.Conntrack[1].Count = 800 }, "warn conntrack: 800 of 1000 connections in ingress-sbox", "nf_conntrack_max=2000"},
		{"conntrack full", func(f *Facts) { f.Conntrack[1].Count = 960 }, "fail conntrack: 960 of 1000 connections in ingress-sbox", "nf_conntrack_max=2000"},
		{"many neighbours", func(f *Facts) { f.Neighbours[0].Entries = 900 }, "warn neighbours ipv4: 900 entries of at most 1024", "gc_thresh3=2048"},
		{"more endpoints than neighbours", func(f *Facts) { f.Agent.Endpoints = 1000 }, "fail neighbours ipv4: 100 entries of at most 1024 (gc_thresh3); 1000 endpoints and 1 peer here need up to 2001", "gc_thresh3=4002"},
		{"clock not set", func(f *Facts) { f.Now = time.Unix(0, 0) }, "fail clock: 1970-01-01", "NTP"},
		{"clock behind", func(f *Facts) { f.Agent.Ahead, f.Agent.AheadWriter = time.Minute, "n2" }, "warn clock: 2026-03-01T12:00:00Z; the newest record, of node n2, is 1m0s ahead", "NTP"},
		{"unread", func(f *Facts) { f.Unread = []Unread{{"routes", "permission denied"}} }, "warn looked at routes: it cannot be read: permission denied", "as root"},
		{"silent agent", func(f *Facts) { f.Ports = nil; f.Agent = Agent{State: Silent, Socket: "/s", Why: "hangs"} }, "fail agent: at /s: hangs", "log"},
		{"silent peer", func(f *Facts) { f.Agent.Peers[0].State = "gone" }, "warn peers: 1 of 1 are not alive: n2 is gone since 2026-03-01T12:00:00Z", "gossip port"},
		{"no cluster", func(f *Facts) { f.Agent.InCluster = false }, "warn peers: this node is in no cluster", "sluice init"},
		{"problems", func(f *Facts) { f.Agent.Problems = []string{"a: B", "c: D"} }, "warn problems: 2 objects not as wished: a: B, c: D", "sluice status"},
		{"no round yet", func(f *Facts) { f.Agent.Applied = false }, "warn problems: the agent has not looked", "wait"},
		{"differences", func(f *Facts) { f.Agent.Differences = strings.Split("a b c d e f g", " ") }, "fail plan: the kernel differs in 7 objects: a, b, c, d, e and 2 more", "sluice plan --diff"},
		{"not compared", func(f *Facts) { f.Agent.Undiffed = "too late" }, "fail plan: the kernel cannot be compared with it: too late", "log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := host()
			c.spoil(f)
			found := false
			for _, check := range Judge(f) {
				if check.State == OK {
					continue
				}
				if line := string(check.State) + " " + check.Name + ": " + check.Seen; !strings.Contains(line, c.want) || found || !strings.Contains(check.Do, c.do) {
					t.Errorf("got %q, do %q, want %q, do %q", line, check.Do, c.want, c.do)
				}
				found = true
			}
			if !found {
				t.Errorf("nothing is said, want %q", c.want)
			}
		})
	}
}

// What is fine says so, with what there is to know.
func TestJudgeFine(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Facts)
		want  string
	}{
		{"strict filter", func(f *Facts) { f.ReverseFilter = []Filter{{"eth0", "1"}, {"eth1", "2"}} }, "ok rp_filter: strict on eth0: that is fine"},
		{"broad link-local route", func(f *Facts) {
			f.Occupied[0] = Occupied{netip.MustParsePrefix("169.254.0.0/16"), "route dev eth0"}
		}, "ok overlap: no route"},
		{"forwarding", func(*Facts) {}, "ok forwarding ipv4/ip_forward: on since the agent; off before: nothing passes between devices that did not forward then. 1 published port relies on it"},
		{"forwarding before", func(f *Facts) { f.Forwarding[0].Before, f.Agent.Published = "1", 2 }, "ok forwarding ipv4/ip_forward: on, as before the agent. 2 published ports rely on it"},
		{"another's forwarding", func(f *Facts) { f.Forwarding[0].Before = "" }, "ok forwarding ipv4/ip_forward: on, and not by the agent."},
		{"another tunnel", func(f *Facts) { f.Tunnels = []Tunnel{{"v", 5, 4789, false}, {"w", 1048576, 8472, false}} }, "ok tunnels: others use the port with other VNIs: v with VNI 5"},
		{"least of the peers", func(f *Facts) { f.Agent.Peers[0].MTU, f.Agent.Needs = 1400, 1350 }, "ok mtu: 1500 here; node n2 has 1400"},
		{"the fullest table", func(*Facts) {}, "ok conntrack: 20 of 1000 connections in ingress-sbox, the fullest of 2"},
		{"repairs", func(f *Facts) { f.Agent.Repairs, f.Agent.Repaired = 3, "host: addr, changed by ip" }, "ok repairs: 3 since the agent started, the last: host: addr, changed by ip"},
		{"shared mounts of its own", func(f *Facts) { f.RunDir.OwnMounts = true }, "ok run directory: /d on tmpfs"},
		{"not there yet", func(f *Facts) { f.RunDir.Exists = false }, "ok run directory: /d is not there yet"},
	} {
		f := host()
		c.spoil(f)
		found := false
		for _, check := range Judge(f) {
			found = found || strings.HasPrefix(string(check.State)+" "+check.Name+": "+check.Seen, c.want)
		}
		if !found {
			t.Errorf("%s: no %q in %+v", c.name, c.want, Judge(f))
		}
	}
}

// Without an agent what it left is in use while its data are there, and a leftover otherwise.
func TestLeftovers(t *testing.T) {
	for _, c := range []struct {
		holds  bool
		marked []string
		want   State
	}{
		{true, []string{"table inet sluice"}, ""},
		{false, []string{"table inet sluice"}, Warn},
		{false, nil, OK},
	} {
		f := host()
		f.Agent = Agent{State: Absent}
		f.DataDir.Holds, f.Marked = c.holds, c.marked
		got := State("")
		for _, check := range Judge(f) {
			if check.Name == "leftovers" {
				got = check.State
			}
		}
		if got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for version, want := range map[string]bool{"1.0.6": true, "1.0.10": true, "1.1": true, "2": true, "1.0": false, "1.0.5": false, "0.9.8": false, "": false, "1.0.x": false} {
		if atLeast(version, "1.0.6") != want {
			t.Errorf("%q: got %t", version, !want)
		}
	}
}
