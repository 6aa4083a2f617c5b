package runtests

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMergeOfBothRuns reads the events of a run here and of its part in the VM.
func TestMergeOfBothRuns(t *testing.T) {
	here, out := readFile(t, "here.json")
	if want := []group{{"example.org/m/ipvs", []string{"TestTable", "TestWeight"}}}; !slices.EqualFunc(here.putOff(later), want, sameGroup) {
		t.Fatalf("put off: %v, want %v", here.putOff(later), want)
	}
	for _, want := range []string{"ok    example.org/m/good", "FAIL  example.org/m/plan TestBroken", "broken_test.go:7: 1 != 2", "syntax error"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "quiet") {
		t.Errorf("output of a passing test is shown:\n%s", out)
	}
	if s := here.summary(); s.passed != 2 || s.failed != 6 || len(s.notRun) != 4 {
		t.Errorf("before the VM: %+v", s)
	}

	vm, _ := readFile(t, "vm.json")
	here.merge(here.putOff(later)[0], vm)
	s := here.summary()
	if s.passed != 4 || s.failed != 4 || s.inVM != 3 {
		t.Errorf("after the VM: %+v", s)
	}
	want := []string{
		"example.org/m/ipvs TestWeight: put off to the VM and not run there",
		"example.org/m/plan TestLazy: skipped",
	}
	if !slices.Equal(s.notRun, want) {
		t.Errorf("ran nowhere: %q, want %q", s.notRun, want)
	}
}

func TestFailureHereStaysFailure(t *testing.T) {
	here, vm := newResults(), newResults()
	n := name{"p", "TestA"}
	here.tests[n], vm.tests[n] = failed, passed
	here.merge(group{"p", []string{"TestA"}}, vm)
	if here.tests[n] != failed {
		t.Error("a pass in the VM mended a failure here")
	}
}

func TestSummaryEndsWithCounts(t *testing.T) {
	r := newResults()
	r.checks["make static"] = passed
	r.tests[name{"p", "TestA"}] = passed
	b := name{"p", "TestB"}
	r.tests[b], r.why[b] = failed, lastLines("1\n2\n3\n4\n5\n6\n7\n8\nb_test.go:7: broken\n")
	var out strings.Builder
	r.summary().print(&out, time.Minute)
	if !strings.Contains(out.String(), "FAIL  p TestB\n2\n") || !strings.Contains(out.String(), "b_test.go:7: broken\n") {
		t.Errorf("what failed is not said again: %q", out.String())
	}
	if !strings.HasSuffix(out.String(), "\n2 passed, 1 failed\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestBesideCounts(t *testing.T) {
	var out strings.Builder
	all := newResults()
	if err := (Config{Beside: []string{"true", "echo found; false"}, Out: &out}).steadily(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if s := all.summary(); s.passed != 1 || s.failed != 1 || !strings.Contains(out.String(), "found") {
		t.Errorf("%+v\n%s", s, out.String())
	}
}

func readFile(t *testing.T, file string) (*results, string) {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newResults()
	var out strings.Builder
	if err := r.read(f, &out); err != nil {
		t.Fatal(err)
	}
	return r, out.String()
}

func sameGroup(a, b group) bool { return a.pkg == b.pkg && slices.Equal(a.tests, b.tests) }

func TestTimesGoToTheSteadyVM(t *testing.T) {
	r := newResults()
	r.end(event{Action: "skip", Package: "p", Test: "TestTime"}, "needs steady VM: IPVS", io.Discard)
	r.end(event{Action: "skip", Package: "p", Test: "TestWeight"}, "needs VM: IPVS", io.Discard)
	if got := r.putOff(steadily); !slices.EqualFunc(got, []group{{"p", []string{"TestTime"}}}, sameGroup) {
		t.Errorf("put off to the steady VM: %v, want TestTime", got)
	}
	if got := r.putOff(later); !slices.EqualFunc(got, []group{{"p", []string{"TestWeight"}}}, sameGroup) {
		t.Errorf("put off to the other: %v, want TestWeight", got)
	}
	if s := r.summary(); s.failed != 2 || len(s.notRun) != 2 {
		t.Errorf("before they ran: %+v, want both to have run nowhere", s)
	}
}
