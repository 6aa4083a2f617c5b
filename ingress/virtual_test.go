package ingress

import (
	"net/netip"
	"slices"
	"testing"
)

func TestWithout(t *testing.T) {
	prefixes := func(texts ...string) []netip.Prefix {
		var list []netip.Prefix
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	for name, c := range map[string]struct {
		of     string
		others []netip.Prefix
		want   []netip.Prefix
	}{
		"nothing":        {"10.0.14.0/23", nil, prefixes("10.0.14.0/23")},
		"elsewhere":      {"10.0.14.0/23", prefixes("10.0.13.0/26"), prefixes("10.0.14.0/23")},
		"one":            {"10.0.14.0/23", prefixes("10.0.14.64/26"), prefixes("10.0.14.0/26", "10.0.14.128/25", "10.0.15.0/24")},
		"two":            {"10.0.14.0/25", prefixes("10.0.14.0/26", "10.0.14.0/26"), prefixes("10.0.14.64/26")},
		"all":            {"10.0.14.0/26", prefixes("10.0.14.0/26"), nil},
		"more than all":  {"10.0.14.0/26", prefixes("10.0.0.0/20"), nil},
		"another family": {"fd00::/64", prefixes("10.0.14.0/26"), prefixes("fd00::/64")},
		"IPv6":           {"fd00:0:0:2::/63", prefixes("fd00:0:0:3::/64"), prefixes("fd00:0:0:2::/64")},
	} {
		if got := without(netip.MustParsePrefix(c.of), c.others); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
