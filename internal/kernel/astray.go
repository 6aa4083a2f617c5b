package kernel

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Conntrack decides with a flow's first packet what becomes of all the others. What endpoints began
// while the host's rules were away has kept its address, which means nothing elsewhere, or crossed to
// a bridge that it has no business on; and the rules let go on what is established. So when the rules
// come to where there were none, such flows are deleted: what comes next is a first packet. Echo, which
// has no ports, is not looked at.

// homes are the networks behind the host's devices of ours.
func homes(p *plan.Plan) []netip.Prefix {
	var found []netip.Prefix
	for _, s := range p.Sandboxes {
		if s.Kind != plan.KindHost {
			continue
		}
		for _, a := range s.Addrs {
			if strings.HasPrefix(a.Link, plan.BridgeLinks) {
				found = append(found, a.Prefix.Masked())
			}
		}
		for _, r := range s.Routes {
			if strings.HasPrefix(r.Link, plan.WayOutHosts) {
				found = append(found, r.Dst.Masked())
			}
		}
	}
	return found
}

// homeOf is the network that an address is of; not ok for anybody else's.
func homeOf(homes []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	i := slices.IndexFunc(homes, func(p netip.Prefix) bool { return p.Contains(a) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return homes[i], true
}

// forgetAstray looks once after the host's rules came to where there were none.
func (k *Kernel) forgetAstray(p *plan.Plan) error {
	if !k.captures.bare {
		return nil
	}
	ours := homes(p)
	if len(ours) == 0 {
		k.captures.bare = false
		return nil
	}
	flows, err := flowsOf(k.host.fd)
	if err != nil {
		return err
	}
	own := localCache{k: k, known: map[netip.Addr]bool{}}
	var forget []tracked
	for i := range flows {
		f := &flows[i]
		home, is := homeOf(ours, f.from.Addr())
		to := f.source.Addr() // as translated
		if !is || f.dst.Addr() != f.from.Addr() || home.Contains(to) {
			continue
		}
		arrived, err := own.is(to)
		if err != nil {
			return err
		}
		if !arrived {
			forget = append(forget, *f)
		}
	}
	if err := forgetFlows(k.host.fd, forget); err != nil {
		return err
	}
	k.captures.bare = false
	return nil
}
