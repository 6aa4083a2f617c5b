package kernel_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/firewall"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// The real programs: what each has is let through, also after it loaded its rules
// again, and reads as before after a reset.
func TestPrograms(t *testing.T) {
	feature.Need(t, feature.Namespaces, feature.IPTables)
	p := holdable(plans(t)["no service"])
	for name, program := range map[string]struct {
		start  func(context.Context, *space.Space, string) (*firewall.Firewall, error)
		tables int // in which ours are
		next   string
	}{
		"ufw":       {firewall.UFW, 2, ""},
		"firewalld": {firewall.Firewalld, 1, "reject with icmpx"},
		"docker":    {firewall.Docker, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			host, err := space.New(filepath.Join(t.TempDir(), "netns"))
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			f, err := program.start(t.Context(), host, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}()
			dir := runDir(t)
			err = host.Do(func() error {
				reload := func() {
					if name == "docker" {
						return // it has none
					}
					if err := f.Reload(t.Context()); err != nil {
						t.Error(err)
					}
				}
				reload() // ufw loads two rules more than at its start
				before := sh(t, f.List())
				k := openKernel(t, dir)
				defer k.Close()
				let := func(when string) {
					t.Helper()
					mustApply(t, k, p)
					rules := sh(t, f.List())
					if got := strings.Count(rules, "sluice"); got < 4*program.tables {
						t.Errorf("%s: our accepts are not there:\n%s", when, rules)
					}
					if i := strings.LastIndex(rules, "sluice"); i >= 0 && !strings.Contains(rules[i:], program.next) {
						t.Errorf("%s: %q does not follow:\n%s", when, program.next, rules)
					}
				}
				let("at first")
				reload()
				let("after a reload")
				mustReset(t, dir)
				if diff := cmp.Diff(before, sh(t, f.List())); diff != "" {
					t.Errorf("after a reset its rules differ (-before +after):\n%s", diff)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}
