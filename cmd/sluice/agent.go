package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/mesh"
)

// agentVerb runs the agent until it is told to end.
func (a *app) agentVerb() *cobra.Command {
	var cfg agent.Config
	var keyRotation time.Duration
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this node's agent",
		Long: "Run this node's agent, in the network namespace that it is started in: that is the host to it.\n" +
			"Packets are carried by the kernel and go on when the agent ends.",
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Version = buildVersion()
			if cfg.KeyRotation = keyRotation; keyRotation == 0 {
				cfg.KeyRotation = agent.NoKeyRotation
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if err := a.runAgent(cmd.Context(), cfg); err != nil {
				return agentFailure(err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.DataDir, "data-dir", "/var/lib/sluice", "`DIR` of what outlives a reboot")
	flags.StringVar(&cfg.RunDir, "run-dir", "/run/sluice", "`DIR` of the socket and the sandboxes")
	flags.StringVar(&cfg.Name, "name", "", "the node's `NAME` (default the host's)")
	flags.TextVar(&cfg.Advertise, "advertise", netip.Addr{}, "`ADDR` where other nodes reach this one (default of the route to the world)")
	flags.Uint16Var(&cfg.GossipPort, "gossip-port", 7956, "`PORT` of membership, TCP and UDP")
	flags.TextVar(&cfg.API, "api", netip.AddrPort{}, "`ADDR:PORT` of the API over TCP, for who has a certificate (default none)")
	flags.TextVar(&cfg.DNS, "dns", netip.AddrPort{}, "`ADDR:PORT` where operators on this host ask for all names of the cluster (default none)")
	flags.Uint16Var(&cfg.VXLANPort, "vxlan-port", 4789, "`PORT` of the tunnels, UDP")
	flags.DurationVar(&keyRotation, "key-rotation", agent.DefaultKeyRotation, "gossip gets another key after this `DURATION`; 0: by 'sluice key rotate' alone")
	flags.TextVar(&cfg.Balancer, "balancer", agent.BalancerAuto, "what picks an endpoint: `auto|ipvs|nft`; auto is ipvs where the kernel has it")
	flags.TextVar(&cfg.Firewall, "firewall", agent.FirewallChoice(mesh.FirewallOpen), "what the host's input rules say of published ports: nothing, or as of a process: `open|respect`")
	flags.BoolVar(&cfg.Lock, "lock", false, "hold the host closed while others have taken its rules away; rules saved meanwhile do not load while the agent runs")
	return cmd
}

// agentFailure says what to do where the agent's own error does not: it ends in
// that where it is a refusal.
func agentFailure(err error) *failure {
	f := &failure{what: "run the agent", why: err.Error()}
	if errors.Is(err, fs.ErrPermission) {
		f.do = "run it as root"
	}
	return f
}
