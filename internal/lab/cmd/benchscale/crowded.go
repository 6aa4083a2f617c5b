package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// crowded is a node that has few or many of something.
type crowded struct {
	title string
	make  func() *scene.World
	// changes are what is changed again and again, told how often it was before.
	changes []change
}

type change struct {
	name string
	make func(m *measuring, i int)
}

// firstPort is the first published port of those nodes.
const firstPort = 20_000

// ports are nodes with 10 and 20,000 ports of mode host, and with these as one range.
func (n size) ports(ctx context.Context) ([]*figures, error) {
	single := scene.OwnPort(1, 53, mesh.UDP)
	span := scene.OwnPort(firstPort, firstPort, mesh.UDP)
	span.Last = firstPort + 20_000 - 1
	another := []change{{"one port more, one less", anotherPort}}
	many := func(ports []mesh.PublishedPort) func() *scene.World {
		return func() *scene.World { return scene.Ported(must{}, ports) }
	}
	return n.side(ctx, []crowded{
		{"10", many(scene.Ports(firstPort, 10, single)), another},
		{"20000", many(scene.Ports(firstPort, 20_000, single)), another},
		{"20000 as a range", many([]mesh.PublishedPort{span}), another},
	})
}

// anotherPort gives a service a port that nobody has, or takes it away.
func anotherPort(m *measuring, i int) {
	snap := m.world.State.Snapshot()
	m.world.Change(snap.ServiceNamed("s0").ID, func(s *mesh.Service) {
		extra := scene.OwnPort(firstPort-1, 53, mesh.UDP)
		if i%2 == 0 {
			s.Publish = append([]mesh.PublishedPort{extra}, s.Publish...)
		} else {
			s.Publish = s.Publish[1:]
		}
	})
}

// few is how many networks those nodes have that the others are beside.
const few = 10

// crowds are nodes with few and many networks of both drivers.
func (n size) crowds(ctx context.Context) ([]*figures, error) {
	many := func(driver mesh.Driver, networks, endpoints int) func() *scene.World {
		return func() *scene.World { return scene.Networked(must{}, driver, networks, endpoints) }
	}
	changes := []change{{"an endpoint's address", anotherAddress}, {"one network more, one less", anotherNetwork}}
	return n.side(ctx, []crowded{
		{fmt.Sprintf("%d bridges", few), many(mesh.Bridge, few, few), changes},
		{fmt.Sprintf("%d, %d in use here", n.networks, n.networks/10), many(mesh.Bridge, n.networks, n.networks/10), changes},
		{fmt.Sprintf("%d bridges", n.networks), many(mesh.Bridge, n.networks, n.networks), changes},
		{fmt.Sprintf("%d overlays", few), many(mesh.Overlay, few, few), changes},
		{fmt.Sprintf("%d overlays", n.networks), many(mesh.Overlay, n.networks, n.networks), changes},
	})
}

// anotherAddress gives the first endpoint the other one of two addresses.
func anotherAddress(m *measuring, i int) {
	m.write(0, func(e *mesh.Endpoint) {
		a := e.Attached[0]
		four := a.V4.As4()
		four[3] = 5 + byte(i%2)
		a.V4 = netip.AddrFrom4(four)
		e.Attached = []mesh.Attachment{a}
	})
}

// anotherNetwork takes the second endpoint from its network, which is on the node for it alone, or
// puts it back.
func anotherNetwork(m *measuring, i int) {
	m.write(1, func(e *mesh.Endpoint) {
		if i%2 == 0 {
			m.away, e.Attached = e.Attached, nil
		} else {
			e.Attached = m.away
		}
	})
}

// side measures one node after the other.
func (n size) side(ctx context.Context, nodes []crowded) (columns []*figures, err error) {
	for _, c := range nodes {
		f := &figures{title: c.title}
		if err := n.one(ctx, c, f); err != nil {
			return columns, fmt.Errorf("%s: %w", c.title, err)
		}
		columns = append(columns, f)
	}
	return columns, nil
}

func (n size) one(ctx context.Context, c crowded, f *figures) (err error) {
	b, err := newBed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	m := &measuring{bed: b, size: n, balancer: mesh.BalancerNFT, world: c.make(), out: f}
	steps := []func() error{m.load}
	for _, change := range c.changes {
		steps = append(steps, func() error {
			return m.repeated(change.name, func(i int) { change.make(m, i) })
		})
	}
	for _, step := range append(steps, m.look) {
		if err := cmp.Or(step(), ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

// rules counts those of the host, and those of the sandbox of each network that has the most.
func rules(p *plan.Plan) (host, most int) {
	for _, s := range p.Sandboxes {
		n := 0
		for _, t := range s.Tables {
			for _, c := range t.Chains {
				n += len(c.Rules)
			}
		}
		switch s.Kind {
		case plan.KindHost:
			host = n
		case plan.KindNetwork:
			most = max(most, n)
		default: // a balancer's rules are there for each service; an endpoint has none
		}
	}
	return host, most
}

// opening compares nodes with 10 and 10,000 ports of both modes, the first of which is dialled.
func (n size) opening(ctx context.Context) (columns []*figures, err error) {
	for _, mode := range []mesh.PublishMode{mesh.Hosted, mesh.Meshed} {
		f := &figures{title: map[mesh.PublishMode]string{mesh.Hosted: "mode host", mesh.Meshed: "mesh"}[mode]}
		if err := n.open(ctx, mode, f); err != nil {
			return nil, fmt.Errorf("%s: %w", f.title, err)
		}
		columns = append(columns, f)
	}
	return columns, nil
}

func (n size) open(ctx context.Context, mode mesh.PublishMode, f *figures) (err error) {
	var nodes []*dialler
	for _, count := range []int{10, 10_000} {
		b, err := newBed()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.close()) }()
		port := scene.Port(1, 80, mesh.TCP)
		port.Mode = mode
		m := &measuring{bed: b, size: n, balancer: mesh.BalancerNFT, world: scene.Ported(must{}, scene.Ports(firstPort, count, port)), out: f}
		if err := m.settle(); err != nil {
			return err
		}
		nodes = append(nodes, &dialler{m, firstPort, fmt.Sprintf("%d ports", count)})
	}
	return compare(ctx, f, nodes)
}

// attempts are how often a load that is not measured is tried.
const attempts = 5

// settle loads the node. Where time is instructions it runs ahead while a program is read from the
// host for the first time, and what waits for that program gives up: it is there at the next attempt.
func (m *measuring) settle() error {
	p := m.compile(m.world)
	if err := m.pin(p); err != nil {
		return err
	}
	var err error
	for range attempts {
		if _, err = m.timed(p); err == nil {
			return nil
		}
	}
	return err
}
