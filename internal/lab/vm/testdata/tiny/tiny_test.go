package tiny

import (
	"os"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
)

func TestHalf(t *testing.T) {
	if os.Getenv("SLUICE_VM") != "1" {
		t.Fatal("not in a VM: run it by go test -exec sluicevm")
	}
	feature.Need(t, append(feature.Mesh(), feature.WireGuard, feature.Netem)...)
	if got := Half(7); got != 3 {
		t.Errorf("Half(7) = %d", got)
	}
}
