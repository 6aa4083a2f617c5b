package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// stormed is the port that the storm's service has on the mesh.
const stormed = 9000

// storms are what other programs do to the rules of a host, all in one command.
func storms() []struct{ name, run string } {
	return []struct{ name, run string }{
		{"firewalld's table instead of all", `nft -f - <<'END'
flush ruleset
table inet firewalld {
	chain filter_FORWARD {
		type filter hook forward priority 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		reject with icmpx admin-prohibited
	}
}
END`},
		{"iptables -F", "for p in iptables-nft ip6tables-nft; do for t in filter nat mangle raw; do $p -t $t -F; done; done"},
		{"nft flush ruleset", "nft flush ruleset"},
		{"iptables -P FORWARD DROP", "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP"},
	}
}

// TestStorm lets rules be taken away again and again, with requests under way, while somebody on the
// link tries what is not published: that is never answered, and what is published is back within its bar.
func TestStorm(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPTables)...)
	b := startBaseAs(t, cluster.Config{Count: 1, Lock: true})
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	b.sluice(t, "service", "create", "meshed", "--network", "nat", "--publish", fmt.Sprintf("%d:%d/tcp", stormed, probe.TargetPort),
		"--publish", fmt.Sprintf("%d:%d/udp", stormed, probe.TargetPort))
	b.attach(t, b.node, "meshed", "nat")
	b.rest(t)
	flood := b.flood(t)
	control := flood
	control.Targets, control.Most = []netip.AddrPort{netip.AddrPortFrom(b.node.Addr(cluster.IPv4), publishedBy(0, probe.TargetPort))}, 100
	if tally, err := control.Run(t.Context(), b.Client.Space); err != nil || tally.Answers[control.Targets[0]] == 0 || tally.Resets > 0 {
		t.Fatalf("a published port is not heard to answer: %v, %v", tally, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	type result struct {
		tally probe.FloodTally
		err   error
	}
	done := make(chan result, 1)
	go func() {
		tally, err := flood.Run(ctx, b.Client.Space)
		done <- result{tally, err}
	}()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tREQUESTS A SECOND\tFAILED\tLONGEST GAP\tBACK AFTER\tBAR")
	const rounds = 2
	for range rounds {
		for _, s := range storms() {
			fmt.Fprint(table, trySabotage(t, b.Cluster, sabotage{
				name: s.name, in: b.node.Space, run: []command{{"sh", "-ec", s.run}}, bar: heard, from: b.Client.Space, to: b.stormTargets(), rest: b.AtRest,
			}))
		}
	}
	stop()
	r := <-done
	if r.err != nil {
		t.Error(r.err)
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	answers := forbidden(r.tally, b.node.Addr)
	t.Logf("\n%s%d frames to %d forbidden addresses and ports, %d answers", text.String(), r.tally.Sent, len(flood.Targets), answers)
	if answers > 0 || r.tally.Sent < flood.Rate {
		t.Errorf("forbidden addresses and ports: %d frames, answered by %v", r.tally.Sent, r.tally.Answers)
	}
}

// forbidden are the answers of a flood that are none of the host's refusals.
func forbidden(tally probe.FloodTally, host func(cluster.Family) netip.Addr) int {
	answers, refusals := 0, 0
	for who, n := range tally.Answers {
		if who.Addr() == host(cluster.IPv4) || who.Addr() == host(cluster.IPv6) {
			refusals += n
		} else {
			answers += n
		}
	}
	return answers + max(0, refusals-tally.Resets)
}

// flood is of first packets to all that is not to be reached from the link, to the node's card.
func (b *base) flood(t *testing.T) probe.Flood {
	t.Helper()
	card, err := net.ParseMAC(strings.Fields(said(t, b.node.Space, "ip", "-br", "link", "show", "eth0"))[2])
	if err != nil {
		t.Fatal(err)
	}
	f := probe.Flood{Device: "eth0", To: card, Rate: 1000, Most: 500000}
	for _, family := range families() {
		f.From = append(f.From, b.Client.Addr(family))
		for _, name := range []string{"nat-target", "nat-same", "internal-target", "apart-target", "other", "meshed"} {
			f.Targets = append(f.Targets, netip.AddrPortFrom(b.of(name).addr(family), probe.TargetPort))
		}
		f.Targets = append(
			f.Targets,
			netip.AddrPortFrom(b.of("nat-target").addr(family), loopbackTarget),
			netip.AddrPortFrom(b.node.Addr(family), publishedBy(0, loopbackTarget)),
		)
	}
	f.Targets = append(
		f.Targets,
		netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), publishedBy(0, loopbackTarget)),
		netip.AddrPortFrom(netip.IPv6Loopback(), publishedBy(0, loopbackTarget)),
		netip.AddrPortFrom(plan.Uplink4(plan.UplinkSandboxNumber).Addr(), stormed),
		netip.AddrPortFrom(plan.Uplink6(plan.UplinkSandboxNumber).Addr(), stormed),
	)
	return f
}

// stormTargets are a port of the node's own and one of the mesh.
func (b *base) stormTargets() []load.Target {
	var targets []load.Target
	for _, f := range families() {
		for by, port := range map[string]uint16{"nat-target.1": publishedBy(0, probe.TargetPort), "meshed.1": stormed} {
			at := netip.AddrPortFrom(b.node.Addr(f), port)
			targets = append(targets, ways("client -> "+at.String(), at, b.Client.Addr(f), by)...)
		}
	}
	return targets
}
