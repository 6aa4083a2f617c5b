package trace

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Difference is one thing in which a node's kernel is not as its plan says. What
// it is about is set by the functions that make one.
type Difference struct {
	says    string
	sandbox string
	about   about
	line    string       // of an object
	ref     ref          // of an nft table or element, or a list of backends
	route   netip.Prefix // that the plan does not have
	from    netip.Addr   // of a rule that the plan does not have
}

type about int

const (
	aboutSandbox about = iota
	aboutObject
	aboutTable
	aboutElement
	aboutBackends
	aboutRoute
	aboutRule
)

// NoSandbox says that a namespace is not there. says is the difference in words.
func NoSandbox(sandbox, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutSandbox}
}

// NotAsPlanned says that a planned object is missing, or has another value; line
// is the plan's.
func NotAsPlanned(sandbox, line, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutObject, line: line}
}

// NoTable says that an nft table is missing, or not the planned one in its rules.
func NoTable(sandbox string, t *plan.Table, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutTable, ref: ref{family: familyOf(t)}}
}

// Element says that under a key of a set the kernel has something else than
// planned: nothing, another value, or a member that the plan does not have.
func Element(sandbox, family, set, key, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutElement, ref: ref{family: family, set: set, key: key}}
}

// StrayRoute says that the kernel has a route of ours that the plan does not have.
func StrayRoute(sandbox string, dst netip.Prefix, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutRoute, route: dst}
}

// StrayRule says that the kernel has a rule of ours that the plan does not have.
func StrayRule(sandbox string, from netip.Addr, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutRule, from: from}
}

// StrayBackend says that IPVS may choose what the plan does not have.
func StrayBackend(sandbox string, b plan.Backend, says string) Difference {
	return Difference{says: says, sandbox: sandbox, about: aboutBackends, ref: backendsOf(b.Mark, b.Dialled, plan.FamilyOf(b.Addr))}
}

const backendList = "backends" // stands for a set's name: nft has no family ipvs

func backendsOf(mark uint32, d plan.Dialled, f plan.Family) ref {
	return ref{family: "ipvs", set: backendList, key: plan.ServerKey(mark, d) + " " + string(f)}
}

// String is the difference in words.
func (d Difference) String() string { return d.says }

// concerns tells whether an object is not as the plan says because of d.
func (d Difference) concerns(o Object) bool {
	if d.sandbox != o.Sandbox {
		return false
	}
	switch d.about {
	case aboutSandbox:
		return true
	case aboutObject:
		return o.Line != "" && o.Line == d.line
	case aboutTable:
		return o.ref.family == d.ref.family
	case aboutElement, aboutBackends:
		return o.ref == d.ref
	case aboutRoute:
		return o.ref.dst.IsValid() && d.route.Contains(o.ref.dst) && d.route.Bits() > o.ref.bits
	case aboutRule:
		return o.ref.src == d.from
	default:
		return false
	}
}

// Compare marks the hops of one node whose objects its kernel does not have as
// planned, and the other nodes' as not checked. It returns how many differences
// the packet does not meet.
func Compare(hops []Hop, node string, differences []Difference) int {
	met := make([]bool, len(differences))
	for i := range hops {
		h := &hops[i]
		if h.Node != node {
			if h.State == OK {
				h.State, h.Why = Unchecked, fmt.Sprintf("not checked here: run sluice explain on %s", h.Node)
			}
			continue
		}
		for j, d := range differences {
			for _, o := range h.Relies {
				if !d.concerns(o) {
					continue
				}
				met[j] = true
				if h.State != Broken {
					h.State, h.Why = Broken, "the kernel differs: "+d.says
				}
				break
			}
		}
	}
	other := 0
	for _, m := range met {
		if !m {
			other++
		}
	}
	return other
}

// Verdict is the whole in a sentence.
func Verdict(hops []Hop) string {
	unchecked := false
	for _, h := range hops {
		if h.State == Broken {
			return fmt.Sprintf("broken at hop %d, %s of %s: %s", h.Number, h.Sandbox, h.Node, h.Why)
		}
		unchecked = unchecked || h.State == Unchecked
	}
	if unchecked {
		return "the packet arrives and is answered, as planned; this node's part is so in the kernel"
	}
	return "the packet arrives and is answered"
}
