package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/firewall"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// The ports of TestRespect: one of mode host, its marker's, and one of the mesh.
const (
	judgedPort  = 8700
	judgedMark  = 8701
	judgedMesh  = 8702
	judgedRange = 8710 // the first of ten
)

// TestRespect is a node whose agent respects the host's firewall: without one every cell of the
// matrix is as ever, and with one a published port is reached from outside where the input rules let in.
func TestRespect(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPTables)...)
	b := startBaseAs(t, cluster.Config{Count: 1, Firewall: "respect"})
	b.populate(t)
	t.Run("Matrix", func(t *testing.T) { testAllCells(t, b) })
	r := b.publishJudged(t)
	t.Run("None", func(t *testing.T) { b.reaches(t, r, "sees") })
	t.Run("Middle", func(t *testing.T) { b.middle(t, r) })
	t.Run("Others", func(t *testing.T) { testRespectOthers(t, b, r) })
	t.Run("UFW", func(t *testing.T) { testRespectUFW(t, b, r) })
	t.Run("Firewalld", func(t *testing.T) { testRespectFirewalld(t, b, r) })
}

func (b *base) publishJudged(t *testing.T) *resident {
	t.Helper()
	b.network(t, "judged")
	flags := []string{"service", "create", "judged", "--network", "judged"}
	for _, proto := range b.protos {
		for _, spec := range []string{"8700:80/%s,mode=host", "8701:84/%s,mode=host", "8710-8719:8710-8719/%s,mode=host", "8702:80/%s"} {
			flags = append(flags, "--publish", fmt.Sprintf(spec, proto))
		}
	}
	b.sluice(t, flags...)
	r := b.attach(t, b.node, "judged", "judged")
	b.serve(t, r, r.name, judgedRange+5)
	if slices.Contains(b.protos, "sctp") {
		b.serveSCTP(t, r, judgedRange+5)
	}
	b.rest(t)
	return r
}

// reaches is reached over both families and all that the node's ports are published over.
func (b *base) reaches(t *testing.T, r *resident, want string) {
	t.Helper()
	for _, f := range bothFamilies() {
		for _, proto := range b.protos {
			b.reached(t, r, f, proto, want)
		}
	}
}

// reached dials every judged port from outside, and wants it to arrive with the client's address or
// not at all; the host's own processes and endpoints of another network are served in any case.
func (b *base) reached(t *testing.T, r *resident, f cluster.Family, proto, want string) {
	t.Helper()
	if want == "sees" {
		want = "sees " + b.Client.Addr(f).String()
	}
	for published, port := range map[uint16]uint16{judgedPort: probe.TargetPort, judgedMesh: probe.TargetPort, judgedRange + 5: judgedRange + 5} {
		d := dial{from: probe.Client{Place: b.Client}, proto: proto, to: netip.AddrPortFrom(b.node.Addr(f), published), who: r, port: port, mark: judgedMark}
		if got := b.dial(d); got != want {
			t.Errorf("%s %s from outside: %s, want: %s", proto, d.to, got, want)
		}
		for name, place := range map[string]probe.Place{"the host": b.node, "an endpoint": b.of("other")} {
			d.from = probe.Client{Place: place}
			if got := b.dial(d); !strings.HasPrefix(got, "sees ") {
				t.Errorf("%s %s from %s: %s, want: sees it", proto, d.to, name, got)
			}
		}
	}
}

// middle sends the middle of a connection that nobody opened: rules that deny the beginning of one
// do not ask about it, and it must not make the flow a known one.
func (b *base) middle(t *testing.T, r *resident) {
	t.Helper()
	for _, f := range bothFamilies() {
		marks := netip.AddrPortFrom(b.node.Addr(f), judgedMark)
		for _, published := range []uint16{judgedPort, judgedMesh} {
			to := netip.AddrPortFrom(b.node.Addr(f), published)
			got := question{
				begin: func() (*probe.Attempt, error) {
					return probe.Unanswered(), b.frame(probe.Packet{Proto: probe.Ack, Dest: to})
				},
				mark:  func() error { return marker(b.Client, marks, r) },
				proto: probe.Ack, family: f, who: r, port: probe.TargetPort,
			}.try()
			if want := "does not arrive"; got != want {
				t.Errorf("the middle of a connection to %s: %s, want: %s", to, got, want)
			}
		}
	}
}

// testRespectOthers has plain rules of each kind deny, with the reason that each can give: by the
// policy, by the device that the packet really came by, and by an nft chain that comes late.
func testRespectOthers(t *testing.T, b *base, r *resident) {
	t.Helper()
	for name, rule := range map[string]struct{ deny, undo string }{
		"iptables device": {
			"for i in iptables-nft ip6tables-nft; do for p in tcp udp; do $i -A INPUT -i eth0 -p $p -m multiport --dports 8700,8702,8715 -j DROP; done; done",
			"iptables-nft -F INPUT; ip6tables-nft -F INPUT",
		},
		"iptables policy": {
			"iptables-nft -A INPUT -p udp --dport 8701 -j ACCEPT; ip6tables-nft -A INPUT -p udp --dport 8701 -j ACCEPT; ip6tables-nft -A INPUT -p icmpv6 -j ACCEPT; " +
				"for i in iptables-nft ip6tables-nft; do $i -A INPUT -i lo -j ACCEPT; $i -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT; $i -P INPUT DROP; done",
			"for i in iptables-nft ip6tables-nft; do $i -P INPUT ACCEPT; $i -F INPUT; done",
		},
		"nft late": {
			"nft 'table inet theirs { chain in { type filter hook input priority 900; policy accept; iifname eth0 ct state new th dport { 8700, 8702, 8715 } drop; }; }'",
			"nft delete table inet theirs",
		},
	} {
		said(t, b.node.Space, "sh", "-ec", rule.deny)
		t.Run(name, func(t *testing.T) { b.reaches(t, r, "does not arrive") })
		said(t, b.node.Space, "sh", "-ec", rule.undo)
	}
	b.reaches(t, r, "sees")
}

// testRespectUFW is ufw as Debian configures it: it denies what nobody allowed, and what is allowed
// and then denied again; the agent's death and return change nothing.
func testRespectUFW(t *testing.T, b *base, r *resident) {
	t.Helper()
	f, err := firewall.UFW(t.Context(), b.node.Space, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	do := func(command string) {
		t.Helper()
		if err := f.Run(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := f.Run(context.WithoutCancel(t.Context()), "ufw --force reset"); err != nil {
			t.Error(err)
		}
	}()
	do("ufw allow 8701/udp")
	b.rest(t)
	t.Run("Denied", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
	do("for p in 8700 8702 8710:8719; do ufw allow $p/tcp; ufw allow $p/udp; done")
	t.Run("Allowed", func(t *testing.T) { b.reaches(t, r, "sees") })
	if err := b.node.KillAgent(); err != nil {
		t.Fatal(err)
	}
	do("ufw insert 1 deny proto tcp to any port 8700,8702,8710:8719; ufw insert 1 deny proto udp to any port 8700,8702,8710:8719")
	t.Run("DeniedWithoutAgent", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
	if err := b.node.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.rest(t)
	t.Run("DeniedAfterRestart", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
	said(t, b.node.Space, "sh", "-ec", "for f in inet ip ip6; do nft delete table $f sluice; done; ip link del "+plan.Judge)
	b.rest(t)
	t.Run("DeniedAfterRepair", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
}
