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
		why    string
		reason mesh.Reason
	}{
		{"auto", true, mesh.BalancerIPVS, "auto: this kernel has IP_VS", ""},
		{"auto", false, mesh.BalancerNFT, "auto: this kernel has no IP_VS (no genetlink family IPVS)", ""},
		{"nft", true, mesh.BalancerNFT, "chosen by --balancer nft", ""},
		{"ipvs", true, mesh.BalancerIPVS, "chosen by --balancer ipvs", ""},
		{"ipvs", false, "", "", FeatureMissing},
		{"lvs", true, "", "", BadConfig},
		{"", true, "", "", BadConfig},
	} {
		var choice BalancerChoice
		err := choice.UnmarshalText([]byte(c.text))
		var got picked
		if err == nil {
			got, err = choice.pick(func() bool { return c.ipvs })
		}
		if got != (picked{c.want, c.why}) || mesh.ReasonOf(err) != c.reason {
			t.Errorf("%q, IPVS %v: got %q, %v; want %q (%s), %q", c.text, c.ipvs, got, err, c.want, c.why, c.reason)
		}
	}
}
