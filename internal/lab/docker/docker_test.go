package docker

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// A program that needs others is refused before anything runs: no image has them.
func TestStatic(t *testing.T) {
	_, err := Start(t.Context(), &space.Space{}, t.TempDir(), "/bin/sh")
	if err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("/bin/sh as a workload: %v, want it refused", err)
	}
}
