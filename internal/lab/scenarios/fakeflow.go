package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// fakeFlow is an open flow: what the entry node's conntrack, or its IPVS, remembers.
type fakeFlow struct {
	fabric *Fake
	first  ask
	way    way
	to     netip.AddrPort
}

// Hold implements Fabric.
func (f *Fake) Hold(a ask, server string) (flow, error) {
	w, err := f.walk(a)
	if err != nil {
		return nil, err
	}
	for _, b := range w.backends {
		if f.server(b) == server {
			return &fakeFlow{f, a, w, b}, nil
		}
	}
	return nil, fmt.Errorf("%s does not answer, but %s", server, w.seen)
}

// ask says where the next packet goes: to where the flow's went as long as the node
// remembers it; otherwise it is balanced as a first one.
func (o *fakeFlow) ask() string {
	if o.goesOn() {
		return o.fabric.server(o.to)
	}
	if o.first.how.Proto == mesh.TCP {
		return reset // by another endpoint, or by the node where there is none
	}
	w, err := o.fabric.walk(o.first)
	if err != nil {
		return err.Error()
	}
	return w.names[0]
}

func (o *fakeFlow) goesOn() bool {
	sbox := o.fabric.holds[o.way.entry].Sandbox(o.way.balancer, plan.KindIngress)
	services := "services"
	if o.first.at.IsValid() {
		services = "virtual"
	}
	if o.first.how.Six {
		services += "6"
	} else {
		services += "4"
	}
	published := slices.ContainsFunc(sbox.Table("inet").Set(services).Elements, func(e plan.Element) bool { return e.Value == o.way.mark })
	if !published {
		return false
	}
	if o.fabric.balancer == mesh.BalancerNFT {
		return slices.ContainsFunc(sbox.Flows, func(f plan.Flow) bool {
			return f.Addr == o.to.Addr() && (f.Port == 0 || f.Port == o.to.Port())
		})
	}
	mark, err := strconv.ParseUint(o.way.mark, 0, 32)
	return err == nil && slices.ContainsFunc(sbox.Backends, func(b plan.Backend) bool {
		return b.Mark == uint32(mark) && b.Addr == o.to.Addr() && (b.Port == 0 || b.Port == o.to.Port())
	})
}

func (o *fakeFlow) close() {}
