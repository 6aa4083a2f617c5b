package runtests

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// summary is the counts. Every check, test and subtest counts once.
type summary struct {
	passed, failed int
	checks         int
	packages       int
	inVM           int
	notRun         []string // tests that ran nowhere, and why; part of failed
	wrong          []string // what failed, with its last words
}

func (r *results) summary() summary {
	s := summary{checks: len(r.checks), packages: len(r.packages), inVM: len(r.inVM)}
	count := func(st state) {
		if st == passed {
			s.passed++
		} else {
			s.failed++
		}
	}
	for command, st := range r.checks {
		if count(st); st == failed {
			s.wrong = append(s.wrong, command+"\n")
		}
	}
	for n, st := range r.tests {
		count(st)
		switch st {
		case passed:
		case failed:
			s.wrong = append(s.wrong, n.pkg+" "+n.test+"\n"+r.why[n])
		case skipped:
			s.notRun = append(s.notRun, n.pkg+" "+n.test+": skipped")
		case later, steadily:
			s.notRun = append(s.notRun, n.pkg+" "+n.test+": put off to the VM and not run there")
		}
	}
	slices.Sort(s.notRun)
	slices.Sort(s.wrong)
	return s
}

// print says what failed once more, as it was many lines ago, and ends with a line of the two counts alone, for other programs.
func (s summary) print(out io.Writer, took time.Duration) {
	fmt.Fprintln(out)
	for _, w := range s.wrong {
		fmt.Fprint(out, "FAIL  ", w)
	}
	for _, n := range s.notRun {
		fmt.Fprintln(out, "FAIL ", n)
	}
	fmt.Fprintf(out, "%d packages and %d checks in %s; %d tests ran in the VM; %d ran nowhere\n",
		s.packages, s.checks, took.Round(time.Second), s.inVM, len(s.notRun))
	fmt.Fprintf(out, "%d passed, %d failed\n", s.passed, s.failed)
}
