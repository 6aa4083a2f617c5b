package kernel_test

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

// The host can ask for neighbours on a new bridge at once: for what it forwards it asks from the
// interface's link-local address, and while that is tentative it asks nothing for a second.
func TestBridgeSpeaksAtOnce(t *testing.T) {
	inHost(t, func() {
		ip(t, "link set lo up")
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := holdable(planOf(t, "bridge"))
		pinWorkloads(t, k, p)
		mustApply(t, k, p)
		if local := sh(t, "ip -6 -o address show scope link"); !strings.Contains(local, ": sl-b") {
			t.Fatalf("no bridge has a link-local address:\n%s", local)
		}
		for line := range strings.Lines(sh(t, "ip -6 -o address show tentative")) {
			if strings.Contains(line, ": sl-b") {
				t.Errorf("tentative: %s", line)
			}
		}
	})
}
