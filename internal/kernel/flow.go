package kernel

import (
	"maps"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// A flow that conntrack has given a backend keeps it, whatever the rules say later.
// So flows are deleted when their backend leaves: the next packet of each is
// balanced as a first one. A dump of all flows is too dear for every round; the
// targets that were there are remembered, and the flows are read once at the start
// and once for each target that goes.

// observeFlows says to which targets there may be flows that are none any more.
func (n *namespace) observeFlows(want []plan.Flow) ([]plan.Flow, error) {
	if len(want) == 0 && n.flows == nil {
		return nil, nil // this sandbox never balanced by conntrack
	}
	if n.flows == nil {
		found, err := n.readFlows()
		if err != nil {
			return nil, err
		}
		n.flows = found
	} else if n.targets != nil && slices.Equal(want, n.targets) {
		return slices.Clone(n.departed), nil // there may be ten thousands
	}
	n.targets = slices.Clone(want)
	wanted := setOf(want)
	maps.Copy(n.flows, wanted)
	delete(n.flows, plan.Nowhere())
	n.departed = nil
	for f := range n.flows {
		if !leadsTo(wanted, f) {
			n.departed = append(n.departed, f)
		}
	}
	return slices.Clone(n.departed), nil
}

func setOf(flows []plan.Flow) map[plan.Flow]bool {
	set := make(map[plan.Flow]bool, len(flows))
	for _, f := range flows {
		set[f] = true
	}
	return set
}

// leadsTo tells whether a flow's target is one of some. One without a port is all ports of its
// address.
func leadsTo(targets map[plan.Flow]bool, f plan.Flow) bool {
	return targets[f] || targets[plan.Flow{Addr: f.Addr}]
}

// diffFlows forgets the flows to what is no target any more. A target without flows is no difference.
func diffFlows(want *plan.Sandbox, have []plan.Flow) []Op {
	if len(have) == 0 {
		return nil
	}
	wanted := setOf(want.Flows)
	var ops []Op
	for _, f := range have {
		if !leadsTo(wanted, f) {
			ops = append(ops, Op{Delete, want.Name, f})
		}
	}
	slices.SortFunc(ops, func(a, b Op) int { return plan.CompareFlow(a.Object.(plan.Flow), b.Object.(plan.Flow)) })
	return ops
}

// doFlow deletes the flows to a target, and with them those to all others that were
// seen to leave with it: each time all flows have to be read, and a node that dies
// takes hundreds of targets along.
func (n *namespace) doFlow(f plan.Flow) error {
	if n.flows != nil && !n.flows[f] {
		return nil // went with another
	}
	departed := setOf(append(n.departed, f))
	flows, err := flowsOf(n.fd)
	if err != nil {
		return err
	}
	err = forgetFlows(n.fd, slices.DeleteFunc(flows, func(t tracked) bool {
		target, ok := t.target()
		return !ok || !leadsTo(departed, target)
	}))
	if err != nil {
		return err
	}
	for target := range departed {
		delete(n.flows, target)
	}
	n.departed, n.targets = nil, nil
	return nil
}

// target is where a flow's packets go, where that is not the address that the client dialled.
func (t *tracked) target() (plan.Flow, bool) {
	if t.source.Addr() == t.to.Addr() {
		return plan.Flow{}, false
	}
	return plan.Flow{Addr: t.source.Addr(), Port: t.source.Port()}, true
}

func (n *namespace) readFlows() (map[plan.Flow]bool, error) {
	flows, err := flowsOf(n.fd)
	if err != nil {
		return nil, err
	}
	found := map[plan.Flow]bool{}
	for i := range flows {
		if target, ok := flows[i].target(); ok {
			found[target] = true
		}
	}
	return found, nil
}
