package agent

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestRunRefuses(t *testing.T) {
	a := newTestAgent(t, 1)
	other := func() Config {
		cfg := a.cfg
		cfg.DataDir, cfg.RunDir = t.TempDir(), t.TempDir()
		return cfg
	}
	for name, c := range map[string]struct {
		change func(*Config, *system)
		reason mesh.Reason
	}{
		"one run directory":  {func(cfg *Config, _ *system) { cfg.RunDir = a.cfg.RunDir }, RunDirInUse},
		"one data directory": {func(cfg *Config, _ *system) { cfg.DataDir = a.cfg.DataDir }, DataDirInUse},
		"kernel feature": {func(_ *Config, s *system) {
			s.missing = func() []string { return []string{"IP_VS: load the module ip_vs"} }
		}, FeatureMissing},
		"balancer": {func(cfg *Config, s *system) {
			cfg.Balancer, s.hasIPVS = BalancerChoice(mesh.BalancerIPVS), func() bool { return false }
		}, FeatureMissing},
		"name":              {func(cfg *Config, _ *system) { cfg.Name = "a b" }, mesh.BadName},
		"one port for both": {func(cfg *Config, _ *system) { cfg.GossipPort = DefaultVXLANPort }, BadConfig},
		"loopback":          {func(cfg *Config, _ *system) { cfg.Advertise = netip.MustParseAddr("127.0.0.1") }, mesh.BadAddress},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, sys := other(), a.system()
			c.change(&cfg, &sys)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := run(ctx, cfg, sys)
			if mesh.ReasonOf(err) != c.reason || errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("run: %v, want %s", err, c.reason)
			}
		})
	}
}
