package agent

import "github.com/sluice-mesh/sluice/mesh"

// FirewallChoice is what an operator says of the host's input rules: open or respect.
type FirewallChoice mesh.Firewall

// UnmarshalText refuses what is neither.
func (c *FirewallChoice) UnmarshalText(text []byte) error {
	named := FirewallChoice(text)
	if err := named.validate(); err != nil {
		return err
	}
	*c = named
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (c FirewallChoice) MarshalText() ([]byte, error) { return []byte(c), nil }

func (c FirewallChoice) validate() error {
	switch mesh.Firewall(c) {
	case mesh.FirewallOpen, mesh.FirewallRespect:
		return nil
	default:
		return mesh.Refuse(BadConfig, "use open or respect", "there is no firewall setting %.20q", string(c))
	}
}
