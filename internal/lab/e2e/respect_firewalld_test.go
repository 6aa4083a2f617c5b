package e2e

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/firewall"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// testRespectFirewalld is firewalld, whose default zone rejects what nobody opened: a published port is
// refused until it is opened, also after a reload, and with an agent that does not ask it answers as ever.
func testRespectFirewalld(t *testing.T, b *base, r *resident) {
	t.Helper()
	open, shut := "firewall-cmd -q", "firewall-cmd -q"
	for _, proto := range b.protos {
		for _, port := range []string{"8700", "8702", "8710-8719"} {
			open += " --add-port=" + port + "/" + proto
			shut += " --remove-port=" + port + "/" + proto
		}
	}
	f := b.firewalld(t, "IPv6_rpfilter=no")
	t.Run("Denied", func(t *testing.T) { b.reaches(t, r, "does not arrive"); b.refused(t) })
	f.do(open)
	t.Run("Allowed", func(t *testing.T) { b.reaches(t, r, "sees") })
	f.do("firewall-cmd -q --runtime-to-permanent; firewall-cmd -q --reload")
	b.rest(t)
	t.Run("AllowedAfterReload", func(t *testing.T) { b.reaches(t, r, "sees") })
	f.do("for a in 4:" + b.Client.V4.String() + " 6:" + b.Client.V6.String() + "; do firewall-cmd -q --add-rich-rule=\"rule family=ipv${a%%:*} source address=${a#*:} port port=8000-9000 protocol=tcp drop\"; done")
	t.Run("DeniedToOne", func(t *testing.T) {
		for _, f := range bothFamilies() {
			b.reached(t, r, f, "tcp", "does not arrive")
			b.reached(t, r, f, "udp", "sees")
		}
	})
	f.do("firewall-cmd -q --reload; " + shut)
	b.rest(t)
	t.Run("Closed", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
	for _, tt := range []struct{ name, setting, want string }{{"NotAsked", "", "sees"}, {"AskedAgain", "respect", "does not arrive"}} {
		if err := b.node.SwitchFirewall(t.Context(), tt.setting); err != nil {
			t.Fatal(err)
		}
		b.rest(t)
		t.Run(tt.name, func(t *testing.T) { b.reaches(t, r, tt.want) })
	}
	f.close()
	b.rest(t)
	t.Run("Gone", func(t *testing.T) { b.reaches(t, r, "sees") })
	f = b.firewalld(t)
	f.do(open)
	t.Run("AsItComes", func(t *testing.T) {
		for _, proto := range b.protos {
			b.reached(t, r, cluster.IPv4, proto, "sees")
		}
		b.droppedOnTheWay(t)
	})
	f.close()
}

// droppedOnTheWay wants an IPv6 copy to come and to get no further: that is the limit which the page names.
func (b *base) droppedOnTheWay(t *testing.T) {
	t.Helper()
	said(t, b.node.Space, "nft", `table ip6 seen {
		chain before { type filter hook prerouting priority -299; iifname "sl-judged" counter; }
		chain behind { type filter hook prerouting priority 299; iifname "sl-judged" counter; }
	}`)
	defer said(t, b.node.Space, "nft", "delete", "table", "ip6", "seen")
	a, err := probe.Client{Place: b.Client}.Begin("tcp", netip.AddrPortFrom(b.node.V6, judgedPort))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	until(t, "a copy comes and firewalld drops it", func() error {
		text := said(t, b.node.Space, "nft", "list", "table", "ip6", "seen")
		before, behind, _ := strings.Cut(text, "chain behind")
		if strings.Contains(before, "packets 0 ") || !strings.Contains(behind, "packets 0 ") {
			return errors.New(text)
		}
		return nil
	})
}

// refused wants the client to be told so.
func (b *base) refused(t *testing.T) {
	t.Helper()
	for _, f := range bothFamilies() {
		for _, port := range []uint16{judgedPort, judgedMesh} {
			to := netip.AddrPortFrom(b.node.Addr(f), port)
			if _, err := (probe.Client{Place: b.Client, Wait: patience}).Get(to); probe.Outcome(err) != "unreachable" {
				t.Errorf("%s: %v, want the client told that it may not", to, err)
			}
		}
	}
}

// running is a firewall of the node, with its own commands.
type running struct {
	do    func(command string)
	close func()
}

// firewalld starts it, with lines of its configuration and the marker's port open.
func (b *base) firewalld(t *testing.T, settings ...string) running {
	t.Helper()
	f, err := firewall.FirewalldAs(t.Context(), b.node.Space, t.TempDir(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // of a test that did not come to its end
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	do := func(command string) {
		t.Helper()
		if err := f.Run(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	do("[ $(firewall-cmd --get-default-zone) = public ]; firewall-cmd -q --permanent --add-port=8701/udp; firewall-cmd -q --reload")
	b.rest(t)
	return running{do: do, close: func() {
		t.Helper()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		until(t, "its rules are gone", func() error {
			text, err := b.node.Run(t.Context(), "nft", "list", "tables")
			if err == nil && strings.Contains(text, "firewalld") {
				err = errors.New(text)
			}
			return err
		})
	}}
}
