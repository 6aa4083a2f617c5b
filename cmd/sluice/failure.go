package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

const (
	statusFailed = 1
	statusUsage  = 2
	statusDiffer = 3 // plan --diff, explain
)

// failure is why something that was understood could not be done.
type failure struct {
	what string // "create network "web"", as in "could not …"
	why  string // one clause
	do   string // one clause: what to do about it; "" where why says it already
	gone bool   // the agent does not know the object (any more)

	cause error // why there was no connection; nil otherwise
}

// Error is "what: why: what to do".
func (f *failure) Error() string {
	text := f.what + ": " + f.why
	if f.do != "" {
		text += ": " + f.do
	}
	return text
}

// Unwrap is why there was no connection, where that is what failed.
func (f *failure) Unwrap() error { return f.cause }

// exitStatus ends the command line with a status and no message.
type exitStatus int

// Error is for the interface; it is never shown.
func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// report says on stderr what err is and returns the exit status. Verbs return
// a failure or an exitStatus; everything else is about how they were called.
func report(stderr io.Writer, cmd *cobra.Command, err error) int {
	var failed *failure
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &failed):
		complain(stderr, failed)
		return statusFailed
	default:
		complain(stderr, wrongUsage(cmd, err))
		return statusUsage
	}
}

// complain prints one line. A stderr that does not take it has nobody to tell.
func complain(stderr io.Writer, f *failure) {
	_, _ = fmt.Fprintf(stderr, "sluice: %s\n", clean(f.Error()))
}

// wrongUsage tells which command was called wrongly and where its manual is.
func wrongUsage(cmd *cobra.Command, err error) *failure {
	path := cmd.CommandPath()
	what := strings.TrimPrefix(path, "sluice ")
	if what == path {
		what = "command line"
	}
	return &failure{what: what, why: err.Error(), do: fmt.Sprintf("see %q", path+" --help")}
}
