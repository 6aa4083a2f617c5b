package kernel

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Who may dial a published port is judged by the first datagram of a flow, and a sender of
// datagrams may never end one. So when the sets of senders change, UDP flows from those who may
// not dial any more are deleted: their next datagram is a first one.

// judging tells whether a change of rules may change who may dial.
func judging(op Op) bool {
	switch o := op.Object.(type) {
	case TableLoad:
		return o.Table.Family == "inet"
	case ElementChange:
		return slices.ContainsFunc(o.Sets, func(s SetChange) bool { return plan.Admitting(s.Set.Name) })
	default:
		return false
	}
}

// forgetRefused looks once after a change, and once at the start, whatever the agent before did.
// The host's own processes may dial all.
func (k *Kernel) forgetRefused(p *plan.Plan) error {
	if k.captures.judged {
		return nil
	}
	admission := plan.AdmissionOf(hostSets(p))
	if admission.Empty() {
		k.captures.judged = true
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
		if f.proto != unix.IPPROTO_UDP || plan.OnUplink(f.from.Addr()) || !admission.Refuses("udp", f.to, f.from.Addr()) {
			continue
		}
		dialled, err := own.is(f.to.Addr())
		if err != nil {
			return err
		}
		sender, err := own.is(f.from.Addr())
		if err != nil {
			return err
		}
		if dialled && !sender {
			forget = append(forget, *f)
		}
	}
	if err := forgetFlows(k.host.fd, forget); err != nil {
		return err
	}
	k.captures.judged = true
	return nil
}

// localCache asks once for each address whether it is the host's.
type localCache struct {
	k     *Kernel
	known map[netip.Addr]bool
}

func (c *localCache) is(a netip.Addr) (bool, error) {
	if own, known := c.known[a]; known {
		return own, nil
	}
	own, err := c.k.isLocal(a)
	if err == nil {
		c.known[a] = own
	}
	return own, err
}

// hostSets are those of the host's inet table.
func hostSets(p *plan.Plan) []*plan.Set {
	for _, s := range p.Sandboxes {
		if s.Kind != plan.KindHost {
			continue
		}
		for _, t := range s.Tables {
			if t.Family == "inet" {
				return t.Sets
			}
		}
	}
	return nil
}
