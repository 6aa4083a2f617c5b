package e2e

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// On a kernel without IPVS an agent that is to use it says so and leaves nothing. Where the kernel
// has it, TestCluster shows that an agent starts.
func TestAgentWithoutIPVS(t *testing.T) {
	if len(feature.Missing(feature.IPVS)) == 0 {
		return
	}
	s, err := space.New(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Bridge("eth0", netip.MustParsePrefix("192.0.2.1/24")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	data, run := filepath.Join(t.TempDir(), "data"), t.TempDir()
	args := []string{"agent", "--data-dir", data, "--run-dir", run, "--name", "alone", "--advertise", "192.0.2.1", "--balancer", "ipvs"}
	got, err := cluster.Finish(s, exec.CommandContext(ctx, program(t), args...))
	if err != nil {
		t.Fatal(err)
	}
	got.Stderr = lastLine(got.Stderr)
	judge(t, got, refusal{"", args, []int{1}, "IP_VS"})
	left, err := os.ReadDir(run)
	if err != nil || len(left) > 0 {
		t.Errorf("run directory afterwards: %v, %v, want it empty", left, err)
	}
}
