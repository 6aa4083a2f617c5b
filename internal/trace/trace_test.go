package trace_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

// cluster is a scene's nodes, each with its plan, by IPVS.
func cluster(t *testing.T, name string) []trace.Node {
	t.Helper()
	return clusterBy(t, mesh.BalancerIPVS, name)
}

func clusterBy(t *testing.T, balancer mesh.Balancer, name string) []trace.Node {
	t.Helper()
	return clusterOf(t, mesh.Local{Balancer: balancer}, name)
}

func clusterOf(t *testing.T, local mesh.Local, name string) []trace.Node {
	t.Helper()
	local.OwnBridges = []string{"docker0"}
	w := scene.New(t, 3)
	scene.All()[name](w)
	snap := w.State.Snapshot()
	nodes := make([]trace.Node, len(snap.Nodes))
	for i, n := range snap.Nodes {
		local.ID = n.ID
		nodes[i] = trace.Node{
			Name: n.Name, Addr: n.Addr, Mounted: "/run/sluice/netns", Plan: agent.Compile(local, snap),
		}
	}
	return nodes
}

// ask is a client's packet to node n, counted from 1.
func ask(nodes []trace.Node, n int, proto string, port uint16) trace.Question {
	q := trace.Question{
		Entry: nodes[n-1], Others: nodes, Proto: proto, Port: port, To: nodes[n-1].Addr,
		Via: trace.Outside, From: netip.MustParseAddr("203.0.113.1"),
	}
	if q.To.Is6() {
		q.From = netip.MustParseAddr("2001:db8:ffff::1")
	}
	return q
}

// inside is endpoint web.1 of scene "virtual" that dials its own service.
func inside(t *testing.T, balancer mesh.Balancer) trace.Question {
	t.Helper()
	w := scene.New(t, 3)
	scene.All()["virtual"](w)
	snap := w.State.Snapshot()
	blue := snap.NetworkNamed("blue")
	own, _ := snap.EndpointNamed("web.1").On(blue.ID)
	dialled, ok := snap.Virtual(snap.ServiceNamed("web").ID, blue.ID)
	if !ok {
		t.Fatal("the service has no virtual address")
	}
	nodes := clusterBy(t, balancer, "virtual")
	return trace.Question{
		Entry: nodes[0], Others: nodes, Proto: "tcp", From: own.V4, To: dialled.V4, Port: 80,
		Inside: plan.NetworkSandbox(uint32(blue.VNI)), Via: plan.EndpointLink(own.V4),
	}
}

func text(q trace.Question, hops []trace.Hop) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", q)
	for _, h := range hops {
		fmt.Fprintf(&b, "%d %s %s [%s] %s\n", h.Number, h.Node, h.Sandbox, h.State, h.What)
		if h.Why != "" {
			fmt.Fprintf(&b, "    why: %s\n", h.Why)
		}
		for _, o := range h.Relies {
			if o.Line != "" {
				fmt.Fprintf(&b, "    %s: %s\n", o.Sandbox, o.Line)
			}
		}
		fmt.Fprintf(&b, "    $ %s\n", h.Command)
	}
	fmt.Fprintf(&b, "%s\n", trace.Verdict(hops))
	return b.String()
}

func TestWalk(t *testing.T) {
	from := func(q trace.Question, via, addr string) trace.Question {
		q.Via, q.From = via, netip.MustParseAddr(addr)
		return q
	}
	to := func(q trace.Question, addr string) trace.Question {
		q.To = netip.MustParseAddr(addr)
		q.Entry.Local = append(q.Entry.Local, q.To)
		return q
	}
	two, six := cluster(t, "two services"), cluster(t, "underlay IPv6")
	one, bridge := cluster(t, "published on one address"), cluster(t, "hosted")
	both := cluster(t, "both modes")
	byNFT := func(name string) trace.Question { return ask(clusterBy(t, mesh.BalancerNFT, name), 1, "tcp", 8080) }
	for name, q := range map[string]trace.Question{
		"two backends":            ask(two, 1, "tcp", 8080),
		"from a node without any": ask(two, 3, "udp", 8080),
		"underlay IPv6":           ask(six, 1, "tcp", 8080),
		"IPv6 inside IPv4":        to(from(ask(two, 1, "tcp", 8080), trace.Outside, "2001:db8:ffff::1"), "2001:db8::11"),
		"own process":             to(from(ask(two, 1, "tcp", 8080), "", "127.0.0.1"), "127.0.0.1"),
		"own process IPv6":        to(from(ask(two, 1, "tcp", 8080), "", "::1"), "::1"),
		"own bridge":              from(ask(two, 1, "tcp", 8080), "docker0", "172.17.0.2"),
		"own endpoint":            from(ask(two, 1, "tcp", 8080), plan.WayOutHost(1048576), "198.18.47.54"),
		"no endpoint":             ask(cluster(t, "no endpoint"), 1, "tcp", 8080),
		"draining":                ask(cluster(t, "draining"), 1, "tcp", 8080),
		"not published":           ask(two, 1, "tcp", 9999),
		"not this node's": func() trace.Question {
			q := ask(two, 1, "tcp", 8080)
			q.To = netip.MustParseAddr("192.0.2.99")
			return q
		}(),
		"sandbox directly": func() trace.Question {
			q := ask(two, 1, "tcp", 8080)
			q.To = netip.MustParseAddr("169.254.77.2")
			return q
		}(),
		"two backends by nft":     byNFT("two services"),
		"no endpoint by nft":      byNFT("no endpoint"),
		"draining by nft":         byNFT("draining"),
		"affinity":                ask(cluster(t, "affinity"), 1, "tcp", 8081),
		"affinity by nft":         byNFT("affinity"),
		"affinity IPv6 by nft":    to(from(byNFT("affinity"), trace.Outside, "2001:db8:ffff::1"), "2001:db8::11"),
		"one address":             ask(one, 1, "tcp", 8080),
		"another than the one":    to(ask(one, 1, "tcp", 8080), "192.0.2.44"),
		"hosted":                  ask(bridge, 1, "tcp", 8080),
		"hosted own process":      to(from(ask(bridge, 1, "tcp", 8080), "", "127.0.0.1"), "127.0.0.1"),
		"hosted own process IPv6": to(from(ask(bridge, 1, "tcp", 8080), "", "::1"), "::1"),
		"respect":                 ask(clusterOf(t, mesh.Local{Firewall: mesh.FirewallRespect}, "two services"), 1, "tcp", 8080),
		"respect unpublished":     ask(clusterOf(t, mesh.Local{Firewall: mesh.FirewallRespect}, "two services"), 1, "tcp", 9999),
		"respect hosted":          ask(clusterOf(t, mesh.Local{Firewall: mesh.FirewallRespect}, "hosted"), 1, "tcp", 8080),
		"hosted elsewhere":        ask(bridge, 2, "tcp", 8080),
		"hosted source":           ask(bridge, 1, "tcp", 8083),
		"hosted range":            from(ask(cluster(t, "hosted ranges"), 1, "udp", 8500), trace.Outside, "192.0.2.7"),
		"hosted on an overlay":    ask(cluster(t, "hosted on overlay"), 1, "udp", 9005),
		"hosted beside the mesh":  ask(both, 1, "tcp", 8081),
		"datagrams beside it":     ask(both, 1, "udp", 8081),
		"overlay beside the mesh": to(from(ask(both, 1, "tcp", 8091), trace.Outside, "2001:db8:ffff::1"), "2001:db8::11"),
		"mesh beside hosted":      ask(both, 1, "tcp", 8080),
		"hosted hairpin":          from(ask(bridge, 1, "tcp", 8080), plan.BridgeLink(string(mesh.DefaultBridge)), bridged(bridge)),
		"virtual":                 inside(t, mesh.BalancerIPVS),
		"virtual by nft":          inside(t, mesh.BalancerNFT),
		"outside a cluster":       {Entry: trace.Node{Name: "n1", Plan: &plan.Plan{}}, Proto: "tcp", Port: 80, Via: trace.Outside, From: two[1].Addr, To: two[0].Addr},
	} {
		t.Run(name, func(t *testing.T) {
			hops, err := trace.Walk(q)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, text(q, hops))
		})
	}
}

// bridged is the address of the endpoint that a node has on a bridge.
func bridged(nodes []trace.Node) string {
	return nodes[0].Plan.Host().Table("inet").Set("bridged4").Elements[0].Key
}

// Every published port of every scene goes all the way, or ends where the plan
// itself says why.
func TestWalkEverything(t *testing.T) {
	for name := range scene.All() {
		for _, balancer := range []mesh.Balancer{mesh.BalancerIPVS, mesh.BalancerNFT} {
			nodes := clusterBy(t, balancer, name)
			for n := range nodes {
				for _, proto := range []string{"tcp", "udp"} {
					walkWhole(t, name, balancer, ask(nodes, n+1, proto, 8080))
				}
			}
		}
	}
}

func walkWhole(t *testing.T, name string, balancer mesh.Balancer, q trace.Question) {
	t.Helper()
	hops, err := trace.Walk(q)
	if err != nil {
		t.Errorf("%s by %s: %v", name, balancer, err)
		return
	}
	plan := q.Entry.Plan.Text()
	_, mesh, _ := strings.Cut(plan, "sandbox ingress-sbox") // virtual addresses have backends in other sandboxes
	served := strings.Contains(mesh, "backend ") || strings.Contains(mesh, " . 0x1 -> 198.18.") || strings.Contains(mesh, " . 0x1 -> 0xc612") ||
		strings.Contains(plan, "      "+q.Proto+" . 8080 -> ") // a port of the node's own
	if !served || strings.HasPrefix(name, "published on") || name == "port conflict" && q.Proto != "tcp" {
		return
	}
	if hops[len(hops)-1].Number != 10 || strings.HasPrefix(trace.Verdict(hops), "broken") {
		t.Errorf("%s by %s: %s", name, balancer, text(q, hops))
	}
}

// What is not understood is an error and no explanation.
func TestUnknownShapes(t *testing.T) {
	for _, rule := range []string{
		"ip ttl 3 accept", "meta mark set ip daddr", "iifname", "jump nowhere", "ip daddr @nowhere accept", "queue to 1",
		"meta mark set ip daddr map services4", "dnat ip to nobody", "tcp flags >= syn accept", "iifname { accept", "th dport . ip daddr 8080 accept",
		"meta nfproto set ipv4", "limit rate 3/second accept", "meta mark set numgen inc mod 4", "meta mark set numgen random mod none", "meta mark set jhash mod 4", "meta mark vmap { 0x0 : queue }", "goto nowhere",
		"update @published { th dport timeout 3s : meta mark }", "update @nowhere { th dport : meta mark }", "delete published { th dport }",
		"meta mark set th dport . jhash ip saddr mod 4 seed 0x51 map @services4", "meta mark set jhash ip saddr mod 4 seed 0x51 map @services4",
		"ip saddr & ffff:: 192.0.2.1 accept", "ip daddr >= 192.0.2.1 accept",
	} {
		nodes := cluster(t, "two services")
		chain := nodes[0].Plan.Host().Table("inet").Chain("fence", "")
		chain.Rules = append([]string{rule}, chain.Rules...)
		if hops, err := trace.Walk(ask(nodes, 1, "tcp", 8080)); err == nil {
			t.Errorf("rule %q was understood: %s", rule, text(trace.Question{}, hops))
		}
	}
	for _, base := range []string{
		"type filter hook prerouting priority early; policy accept;", "type filter hook prerouting priority raw;",
		"type filter hook prerouting priority raw; policy queue;", "type magic hook prerouting priority raw; policy accept;", "type filter hook x device",
	} {
		nodes := cluster(t, "two services")
		nodes[0].Plan.Host().Table("inet").Chain("more", base)
		if _, err := trace.Walk(ask(nodes, 1, "tcp", 8080)); err == nil {
			t.Errorf("hook line %q was understood", base)
		}
	}
	nodes := cluster(t, "two services")
	nodes[0].Plan.Host().Table("arp")
	if _, err := trace.Walk(ask(nodes, 1, "tcp", 8080)); err == nil {
		t.Error("a table of family arp was understood")
	}
	q := ask(cluster(t, "two services"), 1, "tcp", 8080)
	q.From = netip.IPv6Loopback()
	if _, err := trace.Walk(q); err == nil {
		t.Error("two families in one packet were understood")
	}
}

// A rule that plans do not have now still decides as the kernel would.
func TestRulesDecide(t *testing.T) {
	for rule, passes := range map[string]bool{
		"ip saddr 203.0.113.0/24 counter drop":                            false,
		"ip saddr != 203.0.113.0/24 counter drop":                         true,
		"ip6 saddr 2001:db8::/32 drop":                                    true,
		"ip saddr { 192.0.2.1, 203.0.113.1 } drop":                        false,
		"ip saddr & 255.255.255.0 203.0.113.0 drop":                       false,
		`iifname { "a", "(out*" } drop`:                                   false,
		`iifname "a*" drop`:                                               true,
		"meta l4proto { udp, sctp } reject":                               true,
		"meta l4proto tcp counter reject with tcp reset":                  false,
		"th dport 8080 ct state new,invalid drop":                         false,
		"udp dport 8080 drop":                                             true,
		"meta mark set 0x5 meta mark & 0x4 != 0 drop":                     false,
		"meta mark & 0x4 != 0 drop":                                       true,
		"tcp flags & (fin | syn | rst | ack) == syn drop":                 false,
		"tcp flags & (fin | syn | rst | ack) != syn drop":                 true,
		"meta l4proto . th dport @published drop":                         false,
		"meta l4proto . th dport != @published drop":                      true,
		"ct status & dnat != dnat drop":                                   false,
		"ct status & dnat == dnat drop":                                   true,
		"meta skuid >= 0 drop":                                            true,
		"return ip saddr 203.0.113.1 drop":                                true,
		"fib saddr type local drop":                                       true,
		"ct state established,related accept ip saddr 203.0.113.1 accept": true,
	} {
		nodes := cluster(t, "two services")
		chain := nodes[0].Plan.Host().Table("inet").Chain("fence", "")
		chain.Rules = append([]string{rule}, chain.Rules...)
		hops, err := trace.Walk(ask(nodes, 1, "tcp", 8080))
		if err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		stopped := len(hops) == 1 && hops[0].State == trace.Broken && strings.Contains(hops[0].Why, rule)
		if passes == stopped {
			t.Errorf("%s: want it to pass: %v, got\n%s", rule, passes, text(trace.Question{}, hops))
		}
	}
}

// A plan that lacks a part ends the way where the part is missed.
func TestWalkMissesParts(t *testing.T) {
	sandbox := func(n trace.Node, name string) *plan.Sandbox {
		i := slices.IndexFunc(n.Plan.Sandboxes, func(s *plan.Sandbox) bool { return s.Name == name })
		return n.Plan.Sandboxes[i]
	}
	for name, c := range map[string]struct {
		cut  func(nodes []trace.Node)
		hop  int
		says string
	}{
		"forwarding of the host":       {func(n []trace.Node) { n[0].Plan.Host().Sysctls = nil }, 2, "does not set net/ipv4/ip_forward"},
		"neighbours of ingress-sbox":   {func(n []trace.Node) { sandbox(n[0], plan.IngressSandbox).Neighs = nil }, 5, "knows no neighbour"},
		"forwarding entries":           {func(n []trace.Node) { sandbox(n[0], plan.IngressSandbox).FDB = nil }, 5, "no forwarding entry"},
		"block routes":                 {func(n []trace.Node) { sandbox(n[0], plan.IngressSandbox).Routes = nil }, 5, "no route of ours"},
		"virtual servers":              {func(n []trace.Node) { sandbox(n[0], plan.IngressSandbox).Virtual = nil }, 4, "no virtual server"},
		"peers of n2":                  {func(n []trace.Node) { n[1].Plan.Host().Table("inet").Set("peers4").Elements = nil }, 6, "@peers4 counter drop"},
		"ingress-sbox of n2's network": {func(n []trace.Node) { n[1].Plan.Sandboxes = []*plan.Sandbox{n[1].Plan.Host()} }, 6, "no tunnel end"},
		"isolation of n2":              {func(n []trace.Node) { sandbox(n[1], "sluice-1048576").Table("inet").Set("targets4").Elements = nil }, 7, "policy drop"},
		"zones of n2":                  {func(n []trace.Node) { sandbox(n[1], "sluice-1048576").Table("inet").Set("node_zones").Elements = nil }, 7, "ct original zone 0"},
		"marks of n2":                  {func(n []trace.Node) { sandbox(n[1], "sluice-1048576").Table("inet").Set("zone_marks").Elements = nil }, 9, "leave by the host"},
		"egress of n2":                 {func(n []trace.Node) { sandbox(n[1], "sluice-1048576").Table("netdev").Set("node_macs").Elements = nil }, 9, "counter drop"},
		"proxy ARP of n2": {func(n []trace.Node) {
			sandbox(n[1], "sluice-1048576").Sysctls = sandbox(n[1], "sluice-1048576").Sysctls[:6]
		}, 9, "answers for 169.254.1.1"},
		"blocks of n1": {func(n []trace.Node) { sandbox(n[0], plan.IngressSandbox).Table("inet").Set("blocks4").Elements = nil }, 10, "@blocks4"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := cluster(t, "one endpoint remote")
			c.cut(nodes)
			q := ask(nodes, 1, "tcp", 8080)
			hops, err := trace.Walk(q)
			if err != nil {
				t.Fatal(err)
			}
			last := hops[len(hops)-1]
			if last.Number != c.hop || last.State != trace.Broken || !strings.Contains(last.Why, c.says) {
				t.Errorf("want hop %d to say %q, got\n%s", c.hop, c.says, text(q, hops))
			}
		})
	}
}
