// Package kernel makes a machine equal to a plan, and is the only one that
// touches it.
//
//	plan.Plan --Apply--> observe -> diff (pure) -> do, subsystem by subsystem
//
// It knows sandboxes, links, tables and virtual servers, and never a service. It
// looks for deletion only at what carries our mark (internal/plan/names.go).
//
// Every subsystem has the same three parts: observe says what a sandbox holds
// in the plan's own types, diff is a pure function from two such values to ops,
// do carries one op out. Adding one: a value in plan, a file here, a line in
// the table of subsystems (apply.go), a case in the fake.
package kernel

import (
	"context"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Applier makes a machine equal to a plan. Implemented by Kernel and Fake.
// One call at a time.
type Applier interface {
	// Apply brings the machine as near to want as it can. A failed op is reported
	// against its object and the others still run; calling again retries.
	Apply(ctx context.Context, want *plan.Plan) Report
	// Diff says what Apply would do, and does nothing.
	Diff(ctx context.Context, want *plan.Plan) ([]Op, error)
}

// Report is what one Apply did and could not do.
type Report struct {
	Done   []Op
	Failed []Failure

	Writing time.Duration // in which ops were carried out; the rest was looking
}

// Failure is one object that could not be brought to what the plan says.
type Failure struct {
	Object string // "sandbox: object", as Op prints it
	Reason plan.Reason
	Err    error
}

// Error is the failure as a sentence.
func (f Failure) Error() string { return f.Object + ": " + f.Err.Error() }

// Unwrap gives the kernel's own error.
func (f Failure) Unwrap() error { return f.Err }

// Refusal is a "no" of this package to something a person asked for.
type Refusal struct {
	Reason plan.Reason
	Why    string // one clause
	Do     string // one clause: what to do about it
}

// Error is "why: what to do".
func (r *Refusal) Error() string { return r.Why + ": " + r.Do }

// observed is what a sandbox holds of a subsystem: the plan's own types where
// the kernel can tell them whole, otherwise what it can tell.
type observed struct {
	plan.Sandbox                   // Links, Addrs, Routes, Rules, Neighs, FDB, Virtual, Backends, Timeouts, Flows, Zones
	settings     map[string]string // sysctl: key -> value, of the keys that were asked for, "*" expanded
	tables       []loadedTable     // nft
	foreign      []*foreignTable   // other programs'
	user         userState
	lock         lockState
}

// loadedTable is one of our nft tables as the kernel holds it. Rules cannot be
// read back as text; sum says which skeleton was loaded, intact whether every
// chain still is there with as many rules.
type loadedTable struct {
	family string
	sum    string // sum of the skeleton's text; "" where it is not known
	intact bool
	sets   []*plan.Set // with elements, in the plan's text form, sorted by key
}

// diffKeyed compares two lists of values that have a key. What is wanted and
// absent is added, what has another value is replaced, what is not wanted is
// deleted. Adds come before deletes.
func diffKeyed[T interface {
	comparable
	String() string
}, K comparable](sandbox string, want, have []T, key func(T) K) []Op {
	present := make(map[K]T, len(have))
	for _, h := range have {
		present[key(h)] = h
	}
	wanted := make(map[K]bool, len(want))
	var ops []Op
	for _, w := range want {
		k := key(w)
		wanted[k] = true
		h, ok := present[k]
		switch {
		case !ok:
			ops = append(ops, Op{Add, sandbox, w})
		case h != w:
			ops = append(ops, Op{Replace, sandbox, w})
		}
	}
	for _, h := range have {
		if !wanted[key(h)] {
			ops = append(ops, Op{Delete, sandbox, h})
		}
	}
	return ops
}
