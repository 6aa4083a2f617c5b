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

// observeFlows says to which targets there may be flows.
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
	}
	for _, f := range want {
		n.flows[f] = true
	}
	return slices.Collect(maps.Keys(n.flows)), nil
}

// diffFlows forgets the flows to what is no target any more. A target without flows is no difference.
func diffFlows(want *plan.Sandbox, have []plan.Flow) []Op {
	var ops []Op
	for _, f := range have {
		if !slices.Contains(want.Flows, f) {
			ops = append(ops, Op{Delete, want.Name, f})
		}
	}
	slices.SortFunc(ops, func(a, b Op) int { return plan.CompareFlow(a.Object.(plan.Flow), b.Object.(plan.Flow)) })
	return ops
}

// doFlow deletes the flows to a target.
func (n *namespace) doFlow(f plan.Flow) error {
	err := n.withConntrack(func(h *netlink.Handle) error {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, inetFamily(f.Addr), flowsTo(f))
		return err
	})
	if err != nil {
		return fmt.Errorf("delete flows: %w", err)
	}
	delete(n.flows, f)
	return nil
}

// flowsTo matches what conntrack sends to a target.
type flowsTo plan.Flow

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowsTo) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	target, ok := targetOf(flow)
	return ok && target == plan.Flow(f)
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
