package feature

import (
	"os"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/vm"
)

// SkipPrefix begins the reason of every skip that asks for a VM. The test
// programme (internal/lab/runtests) runs exactly those tests again, in one.
const SkipPrefix = "needs VM: "

// Need makes a test run only where the kernel has the features. Elsewhere it is
// put off to the VM, where a missing feature fails it.
func Need(tb testing.TB, fs ...Feature) {
	tb.Helper()
	missing := Missing(fs...)
	switch {
	case len(missing) == 0:
	case os.Getenv(vm.EnvInside) == "1":
		tb.Fatalf("the VM's kernel lacks %s", List(missing))
	default:
		tb.Skip(SkipPrefix + List(missing))
	}
}
