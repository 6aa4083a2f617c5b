package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// oneNode is a node alone that balances over endpoints of its own, without an agent,
// and a client with many addresses on its link: packets take the whole way but for the
// tunnel.
type oneNode struct {
	t        *testing.T
	balancer mesh.Balancer
	host     *space.Space
	client   *space.Space
	runDir   string
	kernel   *kernel.Kernel
	world    *scene.World
	locked   bool             // the host is held closed
	edit     func(*plan.Plan) // of what the compilers say, before it is applied; may be nil
}

// clients is how many addresses the client has in each family. No multiple of three: a
// balancer that goes round three endpoints in turn would give each the same again.
const clients = 32

func newOneNode(t *testing.T, balancer mesh.Balancer) *oneNode {
	t.Helper()
	n := &oneNode{t: t, balancer: balancer, runDir: t.TempDir(), world: scene.New(t, 1)}
	n.host, n.client = newSpace(t, "host"), newSpace(t, "client")
	prefix := func(addr netip.Addr) netip.Prefix {
		if addr.Is4() {
			return netip.PrefixFrom(addr, 24)
		}
		return netip.PrefixFrom(addr, 64)
	}
	addrs := []netip.Prefix{}
	for i := range clients {
		for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
			addrs = append(addrs, prefix(clientAddr(f, i)))
		}
	}
	n.must(n.host.Bridge("link", prefix(nodeAddr(plan.IPv4)), prefix(nodeAddr(plan.IPv6))))
	n.must(n.host.Plug("link", "port", n.client, "eth0", addrs...))
	n.open()
	t.Cleanup(func() {
		n.apply(&plan.Plan{})
		n.must(n.kernel.Close())
	})
	return n
}

func newSpace(t *testing.T, name string) *space.Space {
	t.Helper()
	s, err := space.New(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func nodeAddr(f plan.Family) netip.Addr {
	if f == plan.IPv4 {
		return netip.MustParseAddr("192.0.2.11")
	}
	return netip.MustParseAddr("2001:db8::11")
}

func clientAddr(f plan.Family, i int) netip.Addr {
	if f == plan.IPv4 {
		return netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 0x100+i))
}

func (n *oneNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// open is what a started agent does.
func (n *oneNode) open() {
	n.t.Helper()
	n.must(n.host.Do(func() (err error) {
		n.kernel, err = kernel.New(n.runDir)
		return err
	}))
}

func (n *oneNode) restart() {
	n.t.Helper()
	n.must(n.kernel.Close())
	n.open()
}

func (n *oneNode) plan() *plan.Plan {
	p := agent.Compile(mesh.Local{ID: scene.NodeID(1), Balancer: n.balancer, Lock: n.locked}, n.world.State.Snapshot())
	if n.edit != nil {
		n.edit(p)
	}
	return p
}

// round applies what the cluster is now, and wants nothing to be left to do.
func (n *oneNode) round() kernel.Report {
	n.t.Helper()
	return n.apply(n.plan())
}

func (n *oneNode) apply(p *plan.Plan) kernel.Report {
	n.t.Helper()
	report := n.kernel.Apply(context.Background(), p)
	for _, f := range report.Failed {
		n.t.Errorf("apply: %v (%s)", f, f.Reason)
	}
	n.wantNoDifference(p)
	return report
}

func (n *oneNode) wantNoDifference(p *plan.Plan) {
	n.t.Helper()
	ops, err := n.kernel.Diff(context.Background(), p)
	if err != nil {
		n.t.Error(err)
	}
	for _, op := range ops {
		n.t.Errorf("still differs: %s", op)
	}
}

// serve makes endpoints of a service that answer on TCP and UDP with their names.
func (n *oneNode) serve(s mesh.ServiceID, names ...string) {
	n.t.Helper()
	for _, name := range names {
		w, err := kernel.NewWorkload()
		n.must(err)
		inside, err := space.Open(w.Path())
		n.must(err)
		n.must(n.kernel.Pin(plan.EndpointSandbox(string(n.world.Endpoint(s, name, 1).ID)), w.Path()))
		n.t.Cleanup(func() {
			for _, err := range []error{inside.Close(), w.Close()} {
				if err != nil {
					n.t.Error(err)
				}
			}
		})
		n.listen(inside, name)
	}
}

// listen answers in a namespace, on TCP and UDP, with a name.
func (n *oneNode) listen(inside *space.Space, name string) {
	n.t.Helper()
	var server *probe.Server
	n.must(inside.Do(func() (err error) {
		server, err = probe.Listen(name, probe.TargetPort)
		return err
	}))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	n.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			n.t.Error(err)
		}
	})
}

// endpoint finds one by name.
func (n *oneNode) endpoint(name string) *mesh.Endpoint {
	n.t.Helper()
	all := n.world.State.Snapshot().Endpoints
	i := slices.IndexFunc(all, func(e *mesh.Endpoint) bool { return e.Name == name })
	if i < 0 {
		n.t.Fatalf("there is no endpoint %s", name)
	}
	return all[i]
}

// put gives an endpoint another state and applies it; "" removes it.
func (n *oneNode) put(name string, state mesh.EndpointState) {
	n.t.Helper()
	next := *n.endpoint(name)
	next.State = state
	r := mesh.EndpointRecord(&next)
	if state == "" {
		r.Endpoint, r.Deleted = nil, true
	}
	n.world.Write(scene.NodeID(1), r)
	n.round()
}

// webPort is what the service under test is published on.
const webPort = 8080

// way is how it is dialled.
type way struct {
	proto  string
	family plan.Family
}

func (w way) String() string { return fmt.Sprintf("%s over %s", w.proto, w.family) }

// allWays are both protocols over both families.
func allWays() []way {
	var all []way
	for _, proto := range []string{"tcp", "udp"} {
		all = append(all, way{proto, plan.IPv4}, way{proto, plan.IPv6})
	}
	return all
}

// ask makes a new connection of client i and tells who answers it. It may be called by several
// at once. A datagram may be lost on a busy machine, so it is sent three times at most.
func (n *oneNode) ask(w way, i int) (string, error) {
	c := probe.Client{Place: n.client, Local: netip.AddrPortFrom(clientAddr(w.family, i), 0), Wait: 5 * time.Second}
	to := netip.AddrPortFrom(nodeAddr(w.family), webPort)
	var a probe.Answer
	var err error
	if w.proto == "tcp" {
		a, err = c.Get(to)
		return a.Name, err
	}
	for range 3 {
		if a, err = c.Ask(to, 1); probe.Outcome(err) != "silence" {
			break
		}
	}
	return a.Name, err
}

func (n *oneNode) mustAsk(w way, i int) string {
	n.t.Helper()
	name, err := n.ask(w, i)
	if err != nil {
		n.t.Fatalf("client %d, %s: %v", i, w, err)
	}
	return name
}

// askAll is one new connection of each client.
func (n *oneNode) askAll(w way) []string {
	n.t.Helper()
	names := make([]string, clients)
	for i := range names {
		names[i] = n.mustAsk(w, i)
	}
	return names
}

// sbox is the load balancer's namespace.
func (n *oneNode) sbox() *space.Space {
	n.t.Helper()
	s, err := space.Open(n.kernel.Path(plan.IngressSandbox))
	n.must(err)
	n.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			n.t.Error(err)
		}
	})
	return s
}
