package firewall

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// Each runs beside the machine's own, and drops what it is expected to.
func TestFirewalls(t *testing.T) {
	feature.Need(t, feature.Namespaces, feature.IPTables)
	for name, run := range map[string]struct {
		start func(context.Context, *space.Space, string) (*Firewall, error)
		rule  string
	}{
		"ufw": {UFW, "-P FORWARD DROP"}, "firewalld": {Firewalld, "jump filter_FORWARD_ZONES"}, "docker": {Docker, "-P FORWARD DROP"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := space.New(filepath.Join(t.TempDir(), "netns"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			f, err := run.start(t.Context(), s, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}()
			if err := f.Open(t.Context(), 4789, "udp"); err != nil {
				t.Error(err)
			}
			rules, err := s.Run(t.Context(), "sh", "-c", f.List())
			if err != nil || !strings.Contains(rules, run.rule) {
				t.Errorf("no %q in its rules: %v\n%s", run.rule, err, rules)
			}
			if name == "docker" {
				return // it has no reload of rules
			}
			if err := f.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
