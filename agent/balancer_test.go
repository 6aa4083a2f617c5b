package agent

import (
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestBalancerChoice(t *testing.T) {
	for _, c := range []struct {
		text   string
		ipvs   bool
		want   mesh.Balancer
		reason mesh.Reason
	}{
		{"auto", true, mesh.BalancerIPVS, ""},
		{"auto", false, mesh.BalancerNFT, ""},
		{"nft", true, mesh.BalancerNFT, ""},
		{"ipvs", true, mesh.BalancerIPVS, ""},
		{"ipvs", false, "", FeatureMissing},
		{"lvs", true, "", BadConfig},
		{"", true, "", BadConfig},
	} {
		var choice BalancerChoice
		err := choice.UnmarshalText([]byte(c.text))
		var got mesh.Balancer
		if err == nil {
			got, err = choice.pick(func() bool { return c.ipvs })
		}
		if got != c.want || mesh.ReasonOf(err) != c.reason {
			t.Errorf("%q, IPVS %v: got %q, %v; want %q, %q", c.text, c.ipvs, got, err, c.want, c.reason)
		}
	}
}
