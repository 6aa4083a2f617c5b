package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Mutate changes a node's plan before it is applied; nil: nothing does.
type Mutate func(node string, p *plan.Plan)

// all changes the plans, and gives them back.
func (m Mutate) all(plans map[string]*plan.Plan) map[string]*plan.Plan {
	if m != nil {
		for name, p := range plans {
			m(name, p)
		}
	}
	return plans
}

// Real is a fabric of network namespaces on the running kernel:
//
//	         lan (a bridge)             192.0.2.0/24, 2001:db8::/64
//	n1 .11   n2 .12   n3 .13     c1 .100   c2 .101   many .102 (and 10.50.0.0/16, fd51::/64)
//	br7      second address .21, .22, .23
//	 b1
//
// A node is a namespace with a kernel.Kernel, and nothing else: no agent, no gossip.
type Real struct {
	Mutate Mutate // may be changed between two scenarios
	// Straight goes from the end of a scenario to the beginning of the next, without being
	// empty in between: for slow machines.
	Straight bool

	balancer mesh.Balancer
	dir      string
	spaces   map[string]*space.Space // by name, "lan" included
	kernels  map[string]*kernel.Kernel
	living   map[string]*living // by endpoint
	port     uint16             // of the client, the last one used
	begun    uint64             // scenarios
	world    *world             // since the last Settle
}

// living is an endpoint that answers.
type living struct {
	workload
	held  *kernel.Workload
	space *space.Space
	stop  context.CancelFunc
	done  sync.WaitGroup
}

// NewReal builds the fabric in dir; Close takes it away.
func NewReal(dir string, balancer mesh.Balancer) (*Real, error) {
	f := &Real{
		balancer: balancer, dir: dir, port: firstPort,
		spaces: map[string]*space.Space{}, kernels: map[string]*kernel.Kernel{}, living: map[string]*living{},
	}
	for _, part := range []func() error{f.link, f.hosts, f.bridge, f.manyClients, f.open} {
		if err := part(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// Balancer implements Fabric.
func (f *Real) Balancer() mesh.Balancer { return f.balancer }

func (f *Real) space(name string) (*space.Space, error) {
	s, err := space.New(filepath.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	f.spaces[name] = s
	// A device whose link-local address is still looked for asks for no neighbour.
	return s, s.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644) })
}

func (f *Real) link() error {
	lan, err := f.space("lan")
	if err != nil {
		return err
	}
	return lan.Bridge("lan")
}

func (f *Real) hosts() error {
	for _, name := range append(nodes(), "c1", "c2", manyName) {
		s, err := f.space(name)
		if err != nil {
			return err
		}
		last := lasts()[name]
		addrs := []netip.Prefix{netip.PrefixFrom(v4(last), 24), netip.PrefixFrom(v6(last), 64)}
		if isNode(name) {
			// A node speaks from its first IPv4 address, and from its last IPv6 address.
			second := lasts()[name+"/2"]
			addrs = slices.Insert(addrs, 1, netip.PrefixFrom(v4(second), 24), netip.PrefixFrom(v6(second), 64))
		}
		if err := f.spaces["lan"].Plug("lan", "to-"+name, s, "eth0", addrs...); err != nil {
			return err
		}
		// Every refusal is asked for, and none may be held back.
		err = s.Do(func() error {
			return errors.Join(
				os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0o644),
				os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0o644),
			)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// bridge is the one that only n1 has, with the client b1.
func (f *Real) bridge() error {
	if err := f.spaces["n1"].Bridge(bridgeName, bridge4(1), bridge6(1)); err != nil {
		return err
	}
	b1, err := f.space("b1")
	if err != nil {
		return err
	}
	if err := f.spaces["n1"].Plug(bridgeName, "to-b1", b1, "eth0", bridge4(2), bridge6(2)); err != nil {
		return err
	}
	return errors.Join(
		b1.Route(netip.MustParsePrefix("0.0.0.0/0"), bridge4(1).Addr()),
		b1.Route(netip.MustParsePrefix("::/0"), bridge6(1).Addr()),
	)
}

// manyClients lets one namespace dial from any address of two subnets.
func (f *Real) manyClients() error {
	many := f.spaces[manyName]
	four, six := "10.50.0.0/16", "fd51::/64"
	for _, name := range nodes() {
		err := errors.Join(
			f.spaces[name].Route(netip.MustParsePrefix(four), v4(lasts()[manyName])),
			f.spaces[name].Route(netip.MustParsePrefix(six), v6(lasts()[manyName])),
		)
		if err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"route", "add", "local", four, "dev", "lo"},
		{"-6", "route", "add", "local", six, "dev", "lo"},
	} {
		if _, err := many.Run(context.Background(), "ip", args...); err != nil {
			return err
		}
	}
	return many.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0o644)
	})
}

// open opens each node's kernel, as an agent does when it starts.
func (f *Real) open() error {
	for _, name := range nodes() {
		err := f.spaces[name].Do(func() error {
			k, err := kernel.New(filepath.Join(f.dir, name+".run"))
			if err == nil {
				f.kernels[name] = k
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Close ends all workloads, takes away what the nodes hold, and checks that nothing stays.
func (f *Real) Close() error {
	var errs []error
	for name, l := range f.living {
		errs = append(errs, l.end())
		delete(f.living, name)
	}
	for _, name := range nodes() {
		k := f.kernels[name]
		if k == nil {
			continue
		}
		errs = append(errs, f.onNode(name, func() error { return f.applied(context.Background(), name, &plan.Plan{}) }), k.Close())
		if left, err := os.ReadDir(filepath.Dir(k.Path(plan.IngressSandbox))); err == nil && len(left) > 0 {
			errs = append(errs, fmt.Errorf("%s: sandbox %s is left", name, left[0].Name()))
		}
	}
	for _, s := range f.spaces {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (f *Real) onNode(name string, do func() error) error { return f.spaces[name].Do(do) }

// Begin implements Fabric. Each node has an endpoint of a service that no scenario speaks of,
// and so its sandbox of the ingress network: making one takes longer than all the rest.
func (f *Real) Begin(w *world) error {
	const resident = "resident"
	err := w.service(resident, flags{publish: []mesh.PublishedPort{{Proto: mesh.TCP, Published: 7, Target: usualTarget}}})
	for _, node := range nodes() {
		err = errors.Join(err, w.endpoint(resident, resident+"."+node, node, 1))
	}
	if f.Straight {
		const idsOfOne = 10000 // more than any scenario makes
		f.begun++
		w.Skip(f.begun * idsOfOne)
	}
	return err
}

// Settle implements Fabric: the three nodes work at the same time.
func (f *Real) Settle(ctx context.Context, w *world) error {
	plans, want := f.Mutate.all(w.plans(f.balancer)), w.workloads()
	f.world = w
	var errs []error
	for name, wl := range want {
		if have := f.living[name]; have != nil && have.sandbox == wl.sandbox {
			continue
		}
		if err := f.pin(wl); err != nil {
			errs = append(errs, err)
		}
	}
	failed := make([]error, len(nodes()))
	var group sync.WaitGroup
	for i, name := range nodes() {
		group.Go(func() {
			failed[i] = f.onNode(name, func() error { return f.applied(ctx, name, plans[name]) })
		})
	}
	group.Wait()
	errs = append(errs, failed...)
	for name, l := range f.living {
		if want[name].sandbox != l.sandbox {
			errs = append(errs, l.end())
			delete(f.living, name)
		}
	}
	return errors.Join(errs...)
}

// An agent does not stop at the first round either.
const realRounds = 4

// applied makes one node equal to a plan.
func (f *Real) applied(ctx context.Context, name string, p *plan.Plan) error {
	var errs []error
	for range realRounds {
		errs = nil
		for _, failure := range f.kernels[name].Apply(ctx, p).Failed {
			errs = append(errs, fmt.Errorf("%s: %w", name, failure))
		}
		if len(errs) == 0 {
			return nil
		}
	}
	return errors.Join(errs...)
}

// pin gives an endpoint its namespace and starts its servers there.
func (f *Real) pin(wl workload) error {
	if old := f.living[wl.name]; old != nil {
		delete(f.living, wl.name)
		if err := old.end(); err != nil {
			return err
		}
	}
	held, err := kernel.NewWorkload()
	if err != nil {
		return err
	}
	l := &living{workload: wl, held: held}
	k := f.kernels[wl.node]
	err = k.Pin(wl.sandbox, held.Path())
	if err == nil {
		l.space, err = space.Open(held.Path())
	}
	if err == nil {
		err = l.serve()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("endpoint %s: %w", wl.name, err), l.end())
	}
	f.living[wl.name] = l
	return nil
}

// targets are the ports that every endpoint listens on.
func targets() []uint16 { return []uint16{usualTarget, usualTarget + 1, usualTarget + 2} }

// serve listens on all ports. Each has a server of its own name, so that an answer tells the port.
func (l *living) serve() error {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	return l.space.Do(func() error {
		for _, port := range targets() {
			s, err := probe.Listen(serverName(l.name, port), port)
			if err != nil {
				return err
			}
			l.done.Go(func() { _ = s.Run(ctx) }) // what it could not close ends with the namespace
		}
		return nil
	})
}

func (l *living) end() error {
	if l.stop != nil {
		l.stop()
	}
	l.done.Wait()
	var err error
	if l.space != nil {
		err = l.space.Close()
	}
	return errors.Join(err, l.held.Close())
}

// Empty implements Fabric. A kernel that moves a hash map about may leave elements out of
// one listing of it, which the next round sees.
func (f *Real) Empty(ctx context.Context, w *world) error {
	if f.Straight {
		return nil
	}
	if err := f.Settle(ctx, w); err != nil {
		return err
	}
	var errs []error
	for name, p := range f.Mutate.all(w.plans(f.balancer)) {
		errs = append(errs, f.onNode(name, func() error {
			err := errors.Join(f.forget(name), f.differs(ctx, name, p))
			for range realRounds {
				if err == nil {
					return nil
				}
				err = errors.Join(f.applied(ctx, name, p), f.differs(ctx, name, p))
			}
			return err
		}))
	}
	want := w.workloads()
	for name := range f.living {
		if _, ok := want[name]; !ok {
			errs = append(errs, fmt.Errorf("endpoint %s still lives", name))
		}
	}
	return errors.Join(errs...)
}

// forget makes the kernel forget the flows of a scenario that is over: each endpoint that
// leaves later makes it list all flows.
func (f *Real) forget(name string) error {
	k := f.kernels[name]
	var errs []error
	for _, path := range []string{f.spaces[name].Path, k.Path(plan.IngressSandbox), k.Path(plan.NetworkSandbox(ingressVNI))} {
		s, err := space.Open(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, s.ForgetFlows(), s.Close())
	}
	return errors.Join(errs...)
}

func (f *Real) differs(ctx context.Context, name string, p *plan.Plan) error {
	ops, err := f.kernels[name].Diff(ctx, p)
	for _, op := range ops {
		err = errors.Join(err, fmt.Errorf("%s: it differs from an empty cluster: %s", name, op))
	}
	return err
}

// patience is for one answer: only silence ever takes it.
const patience = 2 * time.Second
