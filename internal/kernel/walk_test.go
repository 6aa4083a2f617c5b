package kernel_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

const (
	walkSteps    = 60
	walkLook     = 20                 // steps between two comparisons of the whole kernel
	walkVariable = "SLUICE_TEST_SEED" // of a walk to be walked again
)

func walkSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(walkVariable)
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// freshText is what a fresh host holds with a golden state.
func freshText(t *testing.T, name string) (text []string) {
	t.Helper()
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		applied(t, dir, holdable(planOf(t, name)))
		text = stillText(t, dir)
	})
	return text
}

// ofIPVS are its settings, which stay where another balancer took its place.
func ofIPVS(line string) bool {
	return strings.Contains(line, "/proc/sys/net/ipv4/vs/") || strings.Contains(line, "Timeout (tcp")
}

// Whatever states a kernel has been in, it ends in the one of a fresh start.
func TestKernelWalk(t *testing.T) {
	seed := walkSeed(t)
	t.Logf("%s=%d", walkVariable, seed)
	r := rand.New(rand.NewPCG(seed, 0))
	all := plans(t)
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		k, err := kernel.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		name := ""
		for step := 1; step <= walkSteps; step++ {
			name = names(all)[r.IntN(len(all))]
			// Settings of the host are given back by reset, and not by an empty plan.
			for step%walkLook == 0 && name == "nothing" {
				name = names(all)[r.IntN(len(all))]
			}
			p := holdable(all[name])
			pinWorkloads(t, k, p)
			mustApply(t, k, p)
			if step%walkLook != 0 {
				continue
			}
			if diff := differs(t, dir, freshText(t, name), ofIPVS); diff != "" {
				t.Fatalf("%s=%d, step %d: state %q differs from a fresh one (- fresh, + walked):%s", walkVariable, seed, step, name, diff)
			}
		}
	})
}
