package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/mesh"
)

// The names and ports that operators choose from are few, so that two sides of a split choose
// the same.
const (
	someNetworks  = 4
	someServices  = 8
	someEndpoints = 24
	somePorts     = 6
	someAddresses = 12
)

// write is what an operator does at a node that runs.
type write func(n *Node, p *agent.Plane) error

// writes plans what operators do meanwhile.
func (p *planner) writes() {
	kinds := []struct {
		weight int
		plan   func() (string, write)
	}{
		{2, p.makeNetwork},
		{1, p.removeNetwork},
		{4, p.makeService},
		{2, p.removeService},
		{2, p.publish},
		{12, p.attach},
		{4, p.attachAt},
		{1, p.grow},
		{4, p.detach},
		{1, p.forget},
		{1, p.forgetLiving},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for range 20 + p.rand.IntN(100) {
		pick := p.rand.IntN(total)
		for _, k := range kinds {
			if pick -= k.weight; pick < 0 {
				text, f := k.plan()
				i := p.rand.IntN(p.Nodes)
				p.step(p.between(0, p.Long), func(w *World) { w.Nodes[i].write(text, f) }, "n%d: %s", i, text)
				break
			}
		}
	}
}

// write does it after what is under way with the process, where one runs.
func (n *Node) write(text string, f write) {
	n.todo <- func() {
		if p := n.plane.Load(); p != nil && !n.paused.Load() {
			if err := f(n, p); err != nil {
				n.world.note("refused", "node", n.Name, "write", text, "err", err)
			}
		}
	}
}

func (p *planner) networkName() string  { return fmt.Sprint("net", p.rand.IntN(someNetworks)) }
func (p *planner) serviceName() string  { return fmt.Sprint("web", p.rand.IntN(someServices)) }
func (p *planner) endpointName() string { return fmt.Sprint("task", p.rand.IntN(someEndpoints)) }

// ports are none to two.
func (p *planner) ports() (ports []string) {
	first := p.rand.IntN(somePorts)
	for i := range p.rand.IntN(3) {
		ports = append(ports, fmt.Sprintf("%d:80", 8000+first+i))
	}
	return ports
}

func (p *planner) makeNetwork() (string, write) {
	name := p.networkName()
	return "network create " + name, func(_ *Node, p *agent.Plane) error { return p.CreateNetwork(name) }
}

func (p *planner) removeNetwork() (string, write) {
	name := p.networkName()
	return "network rm " + name, func(_ *Node, p *agent.Plane) error { return p.RemoveNetwork(name) }
}

func (p *planner) makeService() (string, write) {
	name, ports := p.serviceName(), p.ports()
	var networks []string
	if p.rand.IntN(2) == 0 {
		networks = []string{p.networkName()}
	}
	return fmt.Sprintf("service create %s %v %v", name, networks, ports), func(n *Node, p *agent.Plane) error {
		id, err := p.CreateService(name, networks, ports)
		n.world.book.create(n, serviceKey(id), mesh.Key{}, err)
		return err
	}
}

func (p *planner) removeService() (string, write) {
	name := p.serviceName()
	return "service rm " + name, func(n *Node, p *agent.Plane) error {
		id, err := p.RemoveService(name)
		n.world.book.end(n, serviceKey(id), err)
		return err
	}
}

func (p *planner) publish() (string, write) {
	name, ports := p.serviceName(), p.ports()
	return fmt.Sprintf("service update %s %v", name, ports), func(n *Node, p *agent.Plane) error {
		id, err := p.Publish(name, ports)
		n.world.book.rewrite(serviceKey(id))
		return err
	}
}

func (p *planner) attach() (string, write) {
	name, service := p.endpointName(), p.serviceName()
	return fmt.Sprintf("endpoint attach %s of %s", name, service), func(n *Node, p *agent.Plane) error {
		of, id, err := p.Attach(service, name)
		n.world.book.create(n, endpointKey(id), serviceKey(of), err)
		return err
	}
}

// attachAt asks for an address: one of few, on some network of the service.
func (p *planner) attachAt() (string, write) {
	name, service, pick := p.endpointName(), p.serviceName(), p.rand.IntN(someAddresses)
	return fmt.Sprintf("endpoint attach %s of %s at %d", name, service, pick), func(n *Node, p *agent.Plane) error {
		of, id, err := p.Attach(service, name, addressOf(p.Snapshot(), service, pick)...)
		n.world.book.create(n, endpointKey(id), serviceKey(of), err)
		return err
	}
}

// addressOf is in one of the first blocks of a network that a service uses.
func addressOf(snap *mesh.Snapshot, service string, pick int) []netip.Addr {
	s := snap.ServiceNamed(service)
	if s == nil {
		return nil
	}
	for _, id := range s.Uses() {
		if n := snap.Network(id); n != nil {
			a := n.Subnets4()[pick%len(n.Subnets4())].Addr().As4()
			a[3] = byte(pick*16 + 5)
			return []netip.Addr{netip.AddrFrom4(a)}
		}
	}
	return nil
}

// grow gives a network another subnet, which others are given too.
func (p *planner) grow() (string, write) {
	name := p.networkName()
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(p.rand.IntN(someNetworks))}), 20)
	return fmt.Sprintf("network update %s %s", name, subnet), func(_ *Node, p *agent.Plane) error { return p.GrowNetwork(name, subnet) }
}

func (p *planner) detach() (string, write) {
	name := p.endpointName()
	return "endpoint detach " + name, func(n *Node, p *agent.Plane) error {
		id, err := p.Detach(name)
		n.world.book.end(n, endpointKey(id), err)
		return err
	}
}

// forget removes a node whose disk is gone.
func (p *planner) forget() (string, write) {
	return "node rm of one that lost its disk", func(n *Node, p *agent.Plane) error {
		id := n.world.book.takeLost()
		if id == "" {
			return nil
		}
		if n.world.removals {
			return p.Remove(id)
		}
		return p.Forget(id)
	}
}

// forgetLiving removes a node by mistake: one that lives writes its records again.
func (p *planner) forgetLiving() (string, write) {
	i := p.rand.IntN(p.Nodes)
	return fmt.Sprintf("node rm n%d", i), func(n *Node, p *agent.Plane) error {
		other := n.world.Nodes[i].plane.Load()
		if other == nil {
			return nil
		}
		return p.Forget(other.ID())
	}
}

// keys plans rotations of the keys of gossip. They have numbers of their own, so that the rest of
// a seed's schedule is what it was before there were any.
func (p *planner) keys() {
	r := rand.New(rand.NewPCG(p.Seed, 3))
	for range r.IntN(6) {
		i, at := r.IntN(p.Nodes), time.Duration(r.Int64N(int64(p.Long)))
		const text = "key rotate"
		p.step(at, func(w *World) {
			w.Nodes[i].write(text, func(_ *Node, p *agent.Plane) error { return p.RotateKeys() })
		}, "n%d: %s", i, text)
	}
}

// settled is how long a world that agrees is watched: it must stay so.
const settled = 15 * time.Second
