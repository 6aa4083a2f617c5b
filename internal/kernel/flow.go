package kernel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	n.departed = nil
	for f := range n.flows {
		if !wanted[f] {
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

// diffFlows forgets the flows to what is no target any more. A target without flows is no difference.
func diffFlows(want *plan.Sandbox, have []plan.Flow) []Op {
	if len(have) == 0 {
		return nil
	}
	wanted := setOf(want.Flows)
	var ops []Op
	for _, f := range have {
		if !wanted[f] {
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
	departed := flowsTo(setOf(append(n.departed, f)))
	err := n.withConntrack(func(h *netlink.Handle) error {
		for _, family := range departed.families() {
			if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, departed); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	for target := range departed {
		delete(n.flows, target)
	}
	n.departed, n.targets = nil, nil
	return nil
}

// flowsTo matches what conntrack sends to one of the targets.
type flowsTo map[plan.Flow]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (t flowsTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	target, ok := targetOf(flow)
	return ok && t[target]
}

func (t flowsTo) families() []netlink.InetFamily {
	var families []netlink.InetFamily
	for target := range t {
		if f := inetFamily(target.Addr); !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	return families
}

// targetOf is where a flow's packets go, where that is not what the client dialled.
func targetOf(flow *netlink.ConntrackFlow) (plan.Flow, bool) {
	if flow.Reverse.SrcIP.Equal(flow.Forward.DstIP) {
		return plan.Flow{}, false
	}
	return plan.Flow{Addr: addrOf(flow.Reverse.SrcIP), Port: flow.Reverse.SrcPort}, true
}

func (n *namespace) readFlows() (map[plan.Flow]bool, error) {
	found := map[plan.Flow]bool{}
	err := n.withConntrack(func(h *netlink.Handle) error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := retryDump(func() ([]*netlink.ConntrackFlow, error) {
				return h.ConntrackTableList(netlink.ConntrackTable, family)
			})
			if err != nil {
				return err
			}
			for _, flow := range flows {
				if target, ok := targetOf(flow); ok {
					found[target] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	return found, nil
}

// withConntrack opens a connection to the namespace's conntrack: flows are asked for
// so rarely that none is kept.
func (n *namespace) withConntrack(f func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(n.fd, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

func inetFamily(a netip.Addr) netlink.InetFamily {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
