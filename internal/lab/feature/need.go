package feature

import (
	"os"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/vm"
)

// SkipPrefix begins the reason of every skip that asks for a VM. The test
// programme (internal/lab/runtests) runs exactly those tests again, in one.
const SkipPrefix = "needs VM: "

// SteadyPrefix begins the reason of a skip that asks for a VM whose time is
// instructions.
const SteadyPrefix = "needs steady VM: "

// Need makes a test run only where the kernel has the features. Elsewhere it is
// put off to the VM, where a missing feature fails it.
func Need(tb testing.TB, fs ...Feature) {
	tb.Helper()
	need(tb, SkipPrefix, os.Getenv(vm.EnvInside) == "1", fs)
}

// NeedSteady is Need for a test whose verdict is a time: in a VM it runs only
// where that does not depend on what else the machine has to do.
func NeedSteady(tb testing.TB, fs ...Feature) {
	tb.Helper()
	steady := os.Getenv(vm.EnvSteady) == "1"
	if os.Getenv(vm.EnvInside) == "1" && !steady {
		tb.Skip(SteadyPrefix + "in this one time is shared with others")
	}
	need(tb, SteadyPrefix, steady, fs)
}

// NeedJumps is Need for a test that sleeps for hours. It runs only in a VM whose time is
// instructions: there the clock jumps to the next timer while nothing is to be done.
func NeedJumps(tb testing.TB, fs ...Feature) {
	tb.Helper()
	if os.Getenv(vm.EnvSteady) != "1" {
		tb.Skip(SteadyPrefix + "here an hour takes an hour")
	}
	need(tb, SteadyPrefix, true, fs)
}

func need(tb testing.TB, prefix string, last bool, fs []Feature) {
	tb.Helper()
	missing := Missing(fs...)
	switch {
	case len(missing) == 0:
	case last:
		tb.Fatalf("the VM's kernel lacks %s", List(missing))
	default:
		tb.Skip(prefix + List(missing))
	}
}
