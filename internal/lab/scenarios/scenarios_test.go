package scenarios

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/mesh"
)

func load(t *testing.T) []*Scenario {
	t.Helper()
	all, err := Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tell tells all scenarios on one fabric, and compares what they showed with what is kept of it.
func tell(t *testing.T, f Fabric, how func(t *testing.T, s *Scenario) *Seen) {
	t.Helper()
	all := load(t)
	var told []*Seen
	for _, s := range all {
		t.Run(s.Title(), func(t *testing.T) {
			seen := how(t, s)
			for _, failure := range seen.Failures {
				t.Errorf("%s: %s", f.Balancer(), failure)
			}
			told = append(told, seen)
		})
	}
	if len(told) == len(all) && !t.Failed() { // otherwise some were not chosen by -run
		golden.Equal(t, Text(told))
	}
}

func tellReal(t *testing.T, f *Real) {
	t.Helper()
	tell(t, f, func(t *testing.T, s *Scenario) *Seen {
		t.Helper()
		return Run(t.Context(), t, f, s)
	})
}

func onRealKernel(t *testing.T, balancer mesh.Balancer) *Real {
	t.Helper()
	f, err := NewReal(t.TempDir(), balancer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// TestScenariosFake tells them on kernels in memory where one change in ten fails and
// is tried again, in virtual time.
func TestScenariosFake(t *testing.T) {
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) {
			f := NewFake(balancer)
			f.Faults = 10
			tell(t, f, func(t *testing.T, s *Scenario) *Seen {
				t.Helper()
				return tellFake(t, f, s)
			})
		})
	}
}

func tellFake(t *testing.T, f *Fake, s *Scenario) (seen *Seen) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { seen = Run(t.Context(), t, f, s) })
	return seen
}

// TestScenarios tells them on this kernel, with the balancer that every kernel can have.
func TestScenarios(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	tellReal(t, onRealKernel(t, mesh.BalancerNFT))
}

// TestScenariosBoth tells them with both balancers on one kernel that has both: in the VM,
// where this one has not.
func TestScenariosBoth(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	for _, balancer := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
		t.Run(string(balancer), func(t *testing.T) {
			f := onRealKernel(t, balancer)
			f.Straight = true
			tellReal(t, f)
		})
	}
}

// What a person writes wrong is named with its line.
func TestParseErrors(t *testing.T) {
	for text, says := range map[string]string{
		"dial c1 n1:80 -> a":                        `x.txtar:1: dial c1 n1:80 -> a: a scenario begins with`,
		"-- a --\n\n# c\ndail c1 n1:80 -> a":        `x.txtar:4: dail c1 n1:80 -> a: there is no verb "dail"`,
		"-- a --\ndial c1 n9:80 -> a":               `nothing is called "n9"`,
		"-- a --\ndial c1 n1 -> a":                  `"n1" is not NODE:PORT`,
		"-- a --\ndial c1 n1:80":                    `"-> OUTCOME" is missing`,
		"-- a --\ndial c1 n1:80 -> a sauce b":       `"sauce b" is too much`,
		"-- a --\nservice web --publish 80":         "target port is missing",
		"-- a --\nservice web --scheduler fair":     `scheduler "fair" is none of`,
		"-- a --\nendpoint web a n4":                "the node one of n1, n2, n3",
		"-- a --\nspread 60 c1 n1:80 -> a 1/2":      `"within N" or "within N sigma" is missing`,
		"-- a --\nspread 60 c1 n1:80 -> a half":     `"half" is not like 1/3 or 2%`,
		"-- a --\nnft: settle":                      `go together`,
		"-- a --\ndiffers so\nsettle":               `go together`,
		"-- a --\nsettle\n-- a --\nsettle":          `two scenarios are named "a"`,
		"-- a --\n# nothing":                        `scenario "a" has no steps`,
		"-- a --\nmoved 10 n1:80 besides b 2%":      `write moved N NODE:PORT`,
		"-- a --\noneport c1 n1,n4:80 -> a":         `nothing is called "n4"`,
		"-- a --\nheld n1 http":                     `the port "http" is not a number`,
		"-- a --\nsame many n1:80":                  `how many clients "many" is not a number`,
		"-- a --\nservice web --publish 80:80/icmp": "icmp",
	} {
		if _, err := Parse("x.txtar", text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want it to say %q", text, err, says)
		}
	}
}
