package kernel_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
)

// firewalls are what is found, a line each.
func firewalls(t *testing.T) []string {
	t.Helper()
	found, err := kernel.Firewalls(kernel.PortUse{Proto: "udp", Port: 4789}, kernel.PortUse{Proto: "tcp", Port: 7956})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range found {
		line := fmt.Sprintf("%s, %s: %s", f.Table, strings.Join(f.Chains, " "), f.Forward)
		for _, c := range f.Closed {
			line += fmt.Sprintf("; %s: %s", c.PortUse, c.Open)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestFirewalls(t *testing.T) {
	feature.Need(t, feature.IPTables, feature.LegacyIPTables)
	p := holdable(plans(t)["no service"])
	inHost(t, func() {
		sh(t, `
			iptables-nft -P FORWARD DROP
			iptables-nft -A INPUT -p udp -m multiport --dports 53,4000:5000 -j ACCEPT
			iptables-nft -A INPUT -j DROP
			ip6tables-nft -N ufw6-user-input
			ip6tables-nft -P INPUT DROP
			ip6tables-legacy -P INPUT DROP
			nft 'table inet firewalld { chain in { type filter hook input priority 10; udp dport { 53, 4789 } accept; tcp dport 22 accept; reject; }; }'
			nft 'table inet filter { chain input { type filter hook input priority 0; policy drop; tcp dport 4789 accept; ip saddr 10.0.0.1 udp dport 7956 accept; }; }'
			nft 'table ip open { chain input { type filter hook input priority 0; tcp dport 22 drop; }; }'`)
		want := []string{
			"nft table inet filter, input: through; udp/4789: nft insert rule inet filter input udp dport 4789 accept; tcp/7956: nft insert rule inet filter input tcp dport 7956 accept",
			"nft table inet firewalld, in: through; tcp/7956: firewall-cmd --permanent --add-port=7956/tcp && firewall-cmd --reload",
			"iptables table filter, FORWARD INPUT: forbidden; tcp/7956: iptables -I INPUT -p tcp --dport 7956 -j ACCEPT",
			"nft table ip open, input: through",
			"ip6tables table filter, INPUT: through; udp/4789: ufw allow 4789/udp; tcp/7956: ufw allow 7956/tcp",
			"ip6tables-legacy table filter, FORWARD INPUT: through; udp/4789: ip6tables-legacy -I INPUT -p udp --dport 4789 -j ACCEPT; tcp/7956: ip6tables-legacy -I INPUT -p tcp --dport 7956 -j ACCEPT",
		}
		if diff := cmp.Diff(want, firewalls(t)); diff != "" {
			t.Errorf("found (-want +got):\n%s", diff)
		}
		k := openKernel(t, runDir(t))
		defer k.Close()
		mustApply(t, k, p)
		if got := firewalls(t); !strings.Contains(strings.Join(got, "\n"), "iptables table filter, FORWARD INPUT: let;") {
			t.Errorf("found %q, want sluice let through", got)
		}
	})
}
