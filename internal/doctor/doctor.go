// Package doctor judges from plain facts what on a host is missing or in the way of
// the mesh, and says what to do about it.
//
//	internal/kernel, agent --Facts--> Judge --> checks: ok, warn or fail
//
// It is pure: who gathers the facts is no matter to it. A new check is a function in
// the list in Judge, with a table in the test, and its facts a field of Facts.
package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// State is how a thing is.
type State string

// The states. Where a check fails the mesh does not work on this host, or not whole;
// a warning is about what will be in the way, or may be.
const (
	OK   State = "ok"
	Warn State = "warn"
	Fail State = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name  string // "kernel IP_VS"; stable
	State State
	Seen  string // one line, with figures
	Do    string // what to do, a command where there is one; empty where all is well
}

// Judge makes all checks, in a fixed order.
func Judge(f *Facts) []Check {
	var all []Check
	for _, judge := range []func(*Facts) []Check{
		features, balancer, programs, rights, // what the host can do
		runDir, dataDir, leftovers, // what is kept on it
		ports, tunnels, underlay, mtu, overlaps, firewalls, // the network around it
		reverseFilter, forwarding, conntrack, neighbours, // its settings
		clock, unread,
		agent, peers, problems, repairs, planned, // what the agent knows
	} {
		all = append(all, judge(f)...)
	}
	return all
}

// Failed tells whether one of the checks has failed.
func Failed(checks []Check) bool {
	return slices.ContainsFunc(checks, func(c Check) bool { return c.State == Fail })
}

func ok(name, seen string, args ...any) Check {
	return Check{Name: name, State: OK, Seen: fmt.Sprintf(seen, args...)}
}

func warn(name, do, seen string, args ...any) Check {
	return Check{Name: name, State: Warn, Do: do, Seen: fmt.Sprintf(seen, args...)}
}

func fail(name, do, seen string, args ...any) Check {
	return Check{Name: name, State: Fail, Do: do, Seen: fmt.Sprintf(seen, args...)}
}

// listLimit is how many of a list a line names.
const listLimit = 5

// listed is a list in a line: "a, b and 7 more".
func listed(all []string) string {
	if len(all) <= listLimit {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:listLimit], ", "), len(all)-listLimit)
}

// count is "1 sandbox" or "3 sandboxes".
func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"):
		return fmt.Sprintf("%d %ses", n, what)
	default:
		return fmt.Sprintf("%d %ss", n, what)
	}
}

// unread names what could not be looked at: without it "ok" would not mean much.
func unread(f *Facts) []Check {
	var all []Check
	for _, u := range f.Unread {
		all = append(all, warn("looked at "+u.What, "run this as root, in the network namespace that the agent runs in", "it cannot be read: %s", u.Why))
	}
	return all
}
