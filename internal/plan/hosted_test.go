package plan

import (
	"net/netip"
	"testing"
)

func TestAdmitOnly(t *testing.T) {
	from := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/33"), netip.MustParsePrefix("2001:db8:ffff::1/128")}
	for name, c := range map[string]struct {
		ports Ports
		set   string
		want  []string
	}{
		"any":                      {Ports{Proto: "tcp", First: 80}, sources6, []string{"tcp . 80 . 2001:db8::-2001:db8:7fff:ffff:ffff:ffff:ffff:ffff", "tcp . 80 . 2001:db8:ffff::1"}},
		"range":                    {Ports{Proto: "udp", First: 80, Last: 90}, sources4, []string{"udp . 80-90 . 0.0.0.0-255.255.255.255"}},
		"one":                      {Ports{Addr: netip.MustParseAddr("192.0.2.1"), Proto: "tcp", First: 80}, sourcesAt4, []string{"192.0.2.1 . tcp . 80 . 0.0.0.0-255.255.255.255"}},
		"one, of the other family": {Ports{Addr: netip.MustParseAddr("192.0.2.1"), Proto: "tcp", First: 80}, sourcesAt6, nil},
	} {
		table := &Table{Family: "inet"}
		table.AdmitOnly(c.ports, from)
		got := table.Set(c.set).Elements
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
			continue
		}
		for i := range got {
			if got[i].Key != c.want[i] {
				t.Errorf("%s: %q, want %q", name, got[i].Key, c.want[i])
			}
		}
	}
}
