package kernel

import "github.com/sluice-mesh/sluice/internal/plan"

// Culprit is who likely made a repair necessary, given what was heard before it;
// "" where nothing was heard. One change may take other objects along: routes go
// with their device, and all that is in a sandbox with the sandbox.
func Culprit(heard []Drift, repair Op) string {
	near, anyone := "", ""
	several := false
	for _, d := range heard {
		switch {
		case d.By == "":
		case d.Sandbox == repair.Sandbox && d.Kind == kindOfObject(repair):
			return d.By
		case d.Sandbox == repair.Sandbox && near == "":
			near = d.By
		case anyone == "":
			anyone = d.By
		default:
			several = several || d.By != anyone
		}
	}
	if near != "" || several {
		return near
	}
	return anyone
}

// kindOfObject is the word that Drift has for an op's object.
func kindOfObject(op Op) string {
	switch op.Object.(type) {
	case Namespace:
		return kindNamespace
	case plan.Link:
		return string(stepLinks)
	case plan.Sysctl:
		return string(stepSysctl)
	case plan.Addr:
		return string(stepAddr)
	case plan.Neigh:
		return string(stepNeigh)
	case plan.FDBEntry:
		return string(stepFDB)
	case plan.Rule:
		return string(stepRule)
	case plan.Route:
		return string(stepRoute)
	case TableLoad, ElementChange:
		return string(stepNFT)
	case UserTable:
		return string(stepUser)
	case Pass:
		return string(stepPass)
	default:
		return string(stepIPVS)
	}
}
