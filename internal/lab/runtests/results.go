package runtests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
)

// state is how a test ended.
type state string

const (
	passed   state = "ok"
	failed   state = "FAIL"
	skipped  state = "skip"
	later    state = "later"         // skipped here because it needs the VM
	steadily state = "later, steady" // skipped here because it needs the steady one
)

// name is one test or subtest; an empty test is the package itself.
type name struct{ pkg, test string }

// results are the ends of all tests seen.
type results struct {
	checks   map[string]state // by command
	tests    map[name]state
	packages map[string]state
	inVM     map[name]bool
	why      map[name]string // the last words of what failed
}

func newResults() *results {
	return &results{
		checks: map[string]state{}, tests: map[name]state{},
		packages: map[string]state{}, inVM: map[name]bool{}, why: map[name]string{},
	}
}

// event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// read takes in the events of one go test, and prints a line for each package
// and what each failure said.
func (r *results) read(events io.Reader, out io.Writer) error {
	said := map[name]*strings.Builder{}
	say := func(n name, text string) {
		if said[n] == nil {
			said[n] = new(strings.Builder)
		}
		said[n].WriteString(text)
	}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprint(out, string(line)) // go's own words
				continue
			}
			n := name{e.Package, e.Test}
			switch e.Action {
			case "build-output":
				fmt.Fprint(out, e.Output)
			case "output":
				say(n, e.Output)
			case "pass", "fail", "skip":
				text := ""
				if b := said[n]; b != nil {
					text = b.String()
					delete(said, n)
				}
				r.end(e, text, out)
			}
		}
		switch err {
		case nil:
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

// end takes in the end of a test or of a package.
func (r *results) end(e event, said string, out io.Writer) {
	s := map[string]state{"pass": passed, "fail": failed, "skip": skipped}[e.Action]
	n := name{e.Package, e.Test}
	if s == skipped && strings.Contains(said, feature.SkipPrefix) {
		s = later
	}
	if s == skipped && strings.Contains(said, feature.SteadyPrefix) {
		s = steadily
	}
	if e.Test != "" {
		r.tests[n] = s
		if s == failed || s == skipped {
			fmt.Fprintf(out, "%-5s %s %s\n%s", s, e.Package, e.Test, said)
		}
		if s == failed {
			r.why[n] = lastLines(said)
		}
		return
	}
	if s == skipped {
		return // no test files
	}
	r.packages[e.Package] = s
	if s == failed && !r.anyFailedIn(e.Package) {
		// Nothing in it failed: it did not build, or ended before its tests did.
		r.tests[n], r.why[n] = failed, lastLines(said)
		fmt.Fprint(out, said)
	}
	fmt.Fprintf(out, "%-5s %s %.1fs\n", s, e.Package, e.Elapsed)
}

// lastLines are as much of a failure as is said twice.
func lastLines(said string) string {
	const most = 8
	lines := strings.Split(strings.TrimRight(said, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n") + "\n"
}

func (r *results) anyFailedIn(pkg string) bool {
	for n, s := range r.tests {
		if n.pkg == pkg && s == failed {
			return true
		}
	}
	return false
}

func (r *results) anyFailed() bool {
	for _, s := range r.tests {
		if s == failed {
			return true
		}
	}
	return false
}

// group is the top-level tests of one package that have something to run in one of the VMs.
type group struct {
	pkg   string
	tests []string
}

// putOff lists what is still to be run in the VM, or in the steady one, sorted.
func (r *results) putOff(to state) []group {
	byPkg := map[string][]string{}
	for n, s := range r.tests {
		top, _, _ := strings.Cut(n.test, "/")
		if s == to && !slices.Contains(byPkg[n.pkg], top) {
			byPkg[n.pkg] = append(byPkg[n.pkg], top)
		}
	}
	var groups []group
	for pkg, tests := range byPkg {
		slices.Sort(tests)
		groups = append(groups, group{pkg, tests})
	}
	slices.SortFunc(groups, func(a, b group) int { return strings.Compare(a.pkg, b.pkg) })
	return groups
}

// merge takes in what came of g in the VM. A test that was put off and did not
// run there stays put off, which counts as failed.
func (r *results) merge(g group, vm *results) {
	for n, s := range vm.tests {
		before, known := r.tests[n]
		if known && before == failed && s != failed {
			continue // passing in the VM does not mend a failure here
		}
		r.tests[n] = s
		r.inVM[n] = true
		if s == failed {
			r.why[n] = vm.why[n]
		}
	}
	if vm.packages[g.pkg] == failed {
		r.packages[g.pkg] = failed
	}
}
