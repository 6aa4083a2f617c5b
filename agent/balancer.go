package agent

import (
	"github.com/sluice-mesh/sluice/ingress"
	"github.com/sluice-mesh/sluice/mesh"
)

// BalancerChoice is what an operator says of the balancer: auto, ipvs or nft.
type BalancerChoice string

// BalancerAuto takes IPVS where the kernel has it, otherwise nft.
const BalancerAuto BalancerChoice = "auto"

// UnmarshalText refuses what names no balancer.
func (c *BalancerChoice) UnmarshalText(text []byte) error {
	named := BalancerChoice(text)
	if err := named.validate(); err != nil {
		return err
	}
	*c = named
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (c BalancerChoice) MarshalText() ([]byte, error) { return []byte(c), nil }

func (c BalancerChoice) validate() error {
	switch c {
	case BalancerAuto, BalancerChoice(mesh.BalancerIPVS), BalancerChoice(mesh.BalancerNFT):
		return nil
	default:
		return mesh.Refuse(BadConfig, "use auto, ipvs or nft", "there is no balancer %.20q", string(c))
	}
}

// picked is the balancer that a node uses, and why that one.
type picked struct {
	balancer mesh.Balancer
	why      string
}

// pick is the balancer that a node with this choice uses. auto prefers IPVS: it
// counts connections, which nft cannot.
func (c BalancerChoice) pick(hasIPVS func() bool) (picked, error) {
	chosen := "chosen by --balancer " + string(c)
	switch {
	case c == BalancerChoice(mesh.BalancerNFT):
		return picked{mesh.BalancerNFT, chosen}, nil
	case hasIPVS() && c == BalancerAuto:
		return picked{mesh.BalancerIPVS, "auto: this kernel has IP_VS"}, nil
	case hasIPVS():
		return picked{mesh.BalancerIPVS, chosen}, nil
	case c == BalancerAuto:
		return picked{mesh.BalancerNFT, "auto: this kernel has no IP_VS (no genetlink family IPVS)"}, nil
	default:
		return picked{}, mesh.Refuse(FeatureMissing, "load the module ip_vs, or give --balancer auto or nft", "this kernel has no IP_VS")
	}
}

func compilerOf(b mesh.Balancer) ingress.Balancer {
	if b == mesh.BalancerNFT {
		return ingress.NFT{}
	}
	return ingress.IPVS{}
}
