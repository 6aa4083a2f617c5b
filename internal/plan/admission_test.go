package plan

import (
	"net/netip"
	"testing"
)

// What a table says of who may dial is read back as its rules would say it.
func TestAdmission(t *testing.T) {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	table := &Table{Family: "inet"}
	table.AdmitOnly(Ports{Proto: "udp", First: 53}, prefixes("192.0.2.0/25", "2001:db8::/64"))
	table.AdmitOnly(Ports{Proto: "udp", First: 9000, Last: 9010}, prefixes("192.0.2.7/32"))
	table.AdmitOnly(Ports{Addr: netip.MustParseAddr("198.51.100.1"), Proto: "tcp", First: 80}, prefixes("192.0.2.0/24"))
	a := AdmissionOf(table.Sets)
	for _, c := range []struct {
		proto, dialled, sender string
		refused                bool
	}{
		{"udp", "198.51.100.1:53", "192.0.2.127", false},
		{"udp", "198.51.100.1:53", "192.0.2.128", true},
		{"udp", "[2001:db8:1::1]:53", "2001:db8::ffff", false},
		{"udp", "[2001:db8:1::1]:53", "2001:db8:0:1::", true},
		{"tcp", "198.51.100.1:53", "192.0.2.128", false},
		{"udp", "198.51.100.1:54", "192.0.2.128", false},
		{"udp", "198.51.100.1:9010", "192.0.2.7", false},
		{"udp", "198.51.100.1:9010", "192.0.2.8", true},
		{"udp", "198.51.100.1:9011", "192.0.2.8", false},
		{"udp", "[2001:db8:1::1]:9000", "2001:db8::1", true},
		{"tcp", "198.51.100.1:80", "192.0.2.255", false},
		{"tcp", "198.51.100.1:80", "192.0.3.0", true},
		{"tcp", "198.51.100.2:80", "192.0.3.0", false},
	} {
		if got := a.Refuses(c.proto, netip.MustParseAddrPort(c.dialled), netip.MustParseAddr(c.sender)); got != c.refused {
			t.Errorf("%s from %s to %s is refused: %t, want %t", c.proto, c.sender, c.dialled, got, c.refused)
		}
	}
	if everybody := AdmissionOf((&Table{}).Sets); a.Empty() || !everybody.Empty() {
		t.Error("Empty is wrong")
	}
}
