package overlay

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// enter lets a port that the node answers on for one endpoint in by the network's way out.
// The answer goes back there, as the endpoint answers by the interface that was asked.
func (c *compiler) enter(f mesh.HostedFront) {
	n := c.snap.Network(f.At.Network)
	if n == nil || n.Bridged() || len(c.self.BlocksOf(n.ID)) == 0 {
		return
	}
	if link := plan.WayOutHost(uint32(n.VNI)); !c.seen[link] {
		c.seen[link] = true
		// For the node's own processes. Package bridge drops everything but answers.
		c.plan.Host().LetLocalIn(link)
	}
	name := plan.NetworkSandbox(uint32(n.VNI))
	dialled := plan.Ports{Addr: f.Port.Addr}
	for _, at := range []netip.Addr{f.At.V4, f.At.V6} {
		if !dialled.Has(plan.FamilyOf(at)) {
			continue
		}
		// Several ports may lead to one target, and ranges of them overlap there.
		to := plan.Ports{Addr: at, Proto: string(f.Port.Proto), First: f.Port.Target, Last: f.Port.Last}
		if to.Last != 0 {
			c.spansOf(name).Add(to)
			continue
		}
		if key := plan.Join(at.String(), to.Proto, to.Text()); !c.seen[name+key] {
			c.seen[name+key] = true
			c.hostedIn(name, "hosted", at).Add(key)
		}
	}
}

// spansOf are the ranges that endpoints of one sandbox answer on.
func (c *compiler) spansOf(sandbox string) *plan.Spans {
	if c.spans[sandbox] == nil {
		c.spans[sandbox] = &plan.Spans{}
	}
	return c.spans[sandbox]
}

// entries puts those ranges into their sets.
func (c *compiler) entries() {
	for sandbox, spans := range c.spans { // the plan is sorted afterwards
		for _, p := range spans.All() {
			c.hostedIn(sandbox, "hosted_range", p.Addr).Add(p.Addr.String(), p.Proto, p.Text())
		}
	}
}

// hostedIn is the set of ports of one family in a network's sandbox.
func (c *compiler) hostedIn(sandbox, set string, at netip.Addr) *plan.Set {
	return c.plan.Sandbox(sandbox, plan.KindNetwork).Table("inet").Set(set + plan.Suffix(at))
}
