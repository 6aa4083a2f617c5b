package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

type ruleID struct {
	priority uint32
	from     netip.Addr
}

func ruleKey(r plan.Rule) ruleID { return ruleID{r.Priority, r.From} }

// observeRules lists the rules with our protocol number and one of our priorities.
func (n *namespace) observeRules() ([]plan.Rule, error) {
	list, err := retryDump(func() ([]netlink.Rule, error) { return n.link.RuleList(unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list rules of %s: %w", n.name, err)
	}
	var found []plan.Rule
	for _, r := range list {
		if r.Protocol == plan.RouteProtocol && plan.IsOwnRule(uint32(r.Priority)) && r.Src != nil {
			found = append(found, ruleOf(r))
		}
	}
	return found, nil
}

func ruleOf(r netlink.Rule) plan.Rule {
	return plan.Rule{Priority: uint32(r.Priority), From: addrOf(r.Src.IP), Table: uint32(r.Table), Longer: r.SuppressPrefixlen == 0}
}

func (n *namespace) doRule(verb Verb, want plan.Rule) error {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Protocol = family(want.From), int(want.Priority), plan.RouteProtocol
	r.Src, r.Table = ipNet(netip.PrefixFrom(want.From, want.From.BitLen())), int(want.Table)
	if want.Longer {
		r.SuppressPrefixlen = 0
	}
	switch verb {
	case Delete:
		return orAbsent(verb, n.link.RuleDel(r))
	case Replace: // the kernel does not replace one; two with one key lead to the same
		return errors.Join(n.removeRule(want), n.link.RuleAdd(r))
	default:
		return n.link.RuleAdd(r)
	}
}

// removeRule deletes the rule that has the key of another.
func (n *namespace) removeRule(like plan.Rule) error {
	have, err := n.observeRules()
	for _, r := range have {
		if ruleKey(r) == ruleKey(like) {
			err = errors.Join(err, n.doRule(Delete, r))
		}
	}
	return err
}

// removeRules takes all of ours out.
func (n *namespace) removeRules() error {
	have, err := n.observeRules()
	for _, r := range have {
		err = errors.Join(err, n.doRule(Delete, r))
		n.stages.reach("a rule removed")
	}
	return err
}
