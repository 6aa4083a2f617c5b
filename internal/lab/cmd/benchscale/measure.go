package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// figures are a column of the table.
type figures struct {
	title string
	rows  []row
}

type row struct{ name, value string }

func (f *figures) add(name, format string, args ...any) {
	f.rows = append(f.rows, row{name, fmt.Sprintf(format, args...)})
}

// must ends the program where a scene cannot be made: a mistake in it.
type must struct{}

func (must) Helper()                        {}
func (must) Fatal(args ...any)              { panic(fmt.Sprint(args...)) }
func (must) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// run is the measuring of one balancer.
type measuring struct {
	*bed
	size
	balancer mesh.Balancer
	world    *scene.World
	out      *figures
	away     []mesh.Attachment // what was taken from an endpoint
}

// measure makes two nodes side by side: one with all services, and one with the first of
// them alone, to compare with.
func measure(ctx context.Context, balancer mesh.Balancer, n size) (f *figures, err error) {
	f = &figures{title: string(balancer)}
	var all, one *measuring
	for services, m := range map[int]**measuring{n.services: &all, 1: &one} {
		b, err := newBed()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, b.close()) }()
		*m = &measuring{bed: b, size: n, balancer: balancer, world: scene.Crowd(must{}, services), out: f}
	}
	small := one.compile(one.world)
	if err := one.pin(small); err != nil {
		return nil, err
	}
	if _, err := one.timed(small); err != nil {
		return nil, err
	}
	for _, step := range []func() error{all.load, all.change, all.look} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return f, compare(ctx, f, []*dialler{
		{one, scene.FirstPort, "new connection, 1 service"},
		{all, scene.FirstPort, fmt.Sprintf("new connection, %d services", n.services)},
	})
}

func (m *measuring) compile(w *scene.World) *plan.Plan {
	return agent.Compile(mesh.Local{ID: scene.NodeID(1), Balancer: m.balancer}, w.State.Snapshot())
}

// apply makes the node's kernel equal to p.
func (b *bed) apply(p *plan.Plan) (kernel.Report, error) {
	report := b.kernel.Apply(context.Background(), p)
	if len(report.Failed) > 0 {
		return report, fmt.Errorf("%d objects failed, the first: %w", len(report.Failed), report.Failed[0])
	}
	return report, nil
}

// spent is what a piece of work took.
type spent struct{ wall, cpu, writing time.Duration }

// timed applies p.
func (m *measuring) timed(p *plan.Plan) (s spent, err error) {
	err = m.node.Do(func() error {
		began, cpu := time.Now(), cpuTime()
		report, err := m.apply(p)
		s = spent{time.Since(began), cpuTime() - cpu, report.Writing}
		return err
	})
	return s, err
}

// cpuTime is what this process and the programs it ran have used.
func cpuTime() time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total
}

// freeing is how long the kernel takes to give back what was deleted.
const freeing = time.Second

// load makes the node hold everything from nothing, several times. What other programs do meanwhile
// makes times longer, never shorter: the least counts. Of the memory it is the one in the middle.
func (m *measuring) load() error {
	p := m.compile(m.world)
	var wall, cpu, away []time.Duration
	var memory []int64
	for range m.loads {
		cleared, err := m.timed(&plan.Plan{})
		if err != nil {
			return err
		}
		away = append(away, cleared.wall)
		if err := m.pin(p); err != nil {
			return err
		}
		runtime.GC()
		time.Sleep(freeing)
		before, err := kernelMemory()
		if err != nil {
			return err
		}
		took, err := m.timed(p)
		if err != nil {
			return err
		}
		after, err := kernelMemory()
		if err != nil {
			return err
		}
		wall, cpu, memory = append(wall, took.wall), append(cpu, took.cpu), append(memory, after-before)
	}
	m.out.add("objects", "%d", objects(p))
	host, network := rules(p)
	m.out.add("namespaces; rules of the host, of a network", "%d; %d, %d", len(p.Sandboxes), host, network)
	m.out.add("compile", "%s", short(m.compiling()))
	m.out.add("load, nothing there before: wall, CPU", "%s, %s", short(slices.Min(wall)), short(slices.Min(cpu)))
	if m.loads > 1 {
		m.out.add("taken away again", "%s", short(slices.Min(away[1:])))
	}
	m.out.add("kernel memory", "%.1f MB", float64(slices.Sorted(slices.Values(memory))[m.loads/2])/1e6)
	return nil
}

// objects counts what differs from service to service: elements, virtual servers, backends.
func objects(p *plan.Plan) int {
	n := 0
	for _, s := range p.Sandboxes {
		for _, t := range s.Tables {
			for _, set := range t.Sets {
				n += len(set.Elements)
			}
		}
		n += len(s.Virtual) + len(s.Backends)
	}
	return n
}

// change changes one endpoint of one service again and again.
func (m *measuring) change() error {
	const endpoint = 7001 // of whatever service, on another node
	if err := m.weighted(endpoint % (2 * m.services)); err != nil {
		return err
	}
	for _, kind := range []struct {
		name   string
		change func(e *mesh.Endpoint, i int)
	}{
		{"endpoint replaced", func(e *mesh.Endpoint, i int) {
			a := e.Attached[0]
			four := a.V4.As4()
			four[2] = 14 + byte(i%2) // of the block, and nobody else's
			a.V4 = netip.AddrFrom4(four)
			e.Attached = []mesh.Attachment{a}
		}},
		{"weight changed", func(e *mesh.Endpoint, i int) { e.Weight = 1 + (i+1)%2 }},
	} {
		err := m.repeated(kind.name, func(i int) { m.write(endpoint%(2*m.services), func(e *mesh.Endpoint) { kind.change(e, i) }) })
		if err != nil {
			return err
		}
	}
	return nil
}

// compiling is how long a plan takes, the least of several.
func (m *measuring) compiling() time.Duration {
	snap := m.world.State.Snapshot()
	took := make([]time.Duration, m.loads)
	for i := range took {
		began := time.Now()
		agent.Compile(mesh.Local{ID: scene.NodeID(1), Balancer: m.balancer}, snap)
		took[i] = time.Since(began)
	}
	return slices.Min(took)
}

// repeated makes a change again and again, told how often it was made before.
func (m *measuring) repeated(name string, change func(i int)) error {
	var compiling, writing, looking, cpu []time.Duration
	for i := range m.changes {
		change(i)
		began := time.Now()
		p := m.compile(m.world)
		compiling = append(compiling, time.Since(began))
		s, err := m.timed(p)
		if err != nil {
			return err
		}
		writing, looking, cpu = append(writing, s.writing), append(looking, s.wall-s.writing), append(cpu, s.cpu)
	}
	m.out.add(name+": compile, look, write", "%s, %s, %s", short(median(compiling)), short(median(looking)), short(median(writing)))
	m.out.add(name+": CPU of look and write", "%s", short(median(cpu)))
	return nil
}

// weighted gives an endpoint's service a scheduler that looks at weights.
func (m *measuring) weighted(k int) error {
	e, _ := m.world.State.Get(mesh.EndpointRecord(&mesh.Endpoint{ID: scene.EndpointID(k)}).Key())
	s := *m.world.State.Snapshot().Service(e.Endpoint.Service)
	s.Scheduler = mesh.WeightedRoundRobin
	m.world.Write(e.Endpoint.Node, mesh.ServiceRecord(&s))
	_, err := m.timed(m.compile(m.world))
	return err
}

func (m *measuring) write(k int, change func(*mesh.Endpoint)) {
	key := mesh.EndpointRecord(&mesh.Endpoint{ID: scene.EndpointID(k)}).Key()
	have, ok := m.world.State.Get(key)
	if !ok {
		panic("no such endpoint")
	}
	e := *have.Endpoint
	change(&e)
	m.world.Write(e.Node, mesh.EndpointRecord(&e))
}

// look looks at a kernel that nobody has changed.
func (m *measuring) look() error {
	p := m.compile(m.world)
	var wall, cpu []time.Duration
	for range m.changes {
		s, err := m.timed(p)
		if err != nil {
			return err
		}
		wall, cpu = append(wall, s.wall), append(cpu, s.cpu)
	}
	m.out.add("look at what nobody changed: wall, CPU", "%s, %s", short(median(wall)), short(median(cpu)))
	m.out.add("the longest of them", "%s", short(slices.Max(wall)))
	return nil
}

func median(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// short leaves out digits that the next run would not have.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	default:
		return d.Round(10 * time.Microsecond).String()
	}
}
