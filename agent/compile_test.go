package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/mesh"
)

// world builds records as the nodes of a cluster would, settled.
type world struct {
	tb    testing.TB
	state mesh.State
	time  uint64
}

func id[T ~string](kind byte, n int) T { return T(fmt.Sprintf("%c%0*x", kind, mesh.IDLength-1, n)) }

func nodeID(n int) mesh.NodeID { return id[mesh.NodeID]('a', n) }

func newWorld(tb testing.TB, nodes int) *world {
	tb.Helper()
	w := &world{tb: tb}
	w.write(nodeID(1), mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 0x1234567890)))
	for i := range nodes {
		n := i + 1
		w.write(nodeID(n), mesh.NodeRecord(&mesh.Node{
			ID: nodeID(n), Name: fmt.Sprintf("n%d", n), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}),
			VXLANPort: 4789, MTU: 1500,
		}))
	}
	w.settle()
	return w
}

func (w *world) write(writer mesh.NodeID, r mesh.Record) {
	w.tb.Helper()
	w.time++
	r.Version, r.Claim = mesh.Version{Time: w.time, Writer: writer}, w.time
	if have, ok := w.state.Get(r.Key()); ok {
		r.Claim = have.Claim
	}
	if err := r.Validate(); err != nil {
		w.tb.Fatalf("record %s %s: %v", r.Kind, r.ID, err)
	}
	w.state.Merge(r)
}

func (w *world) settle() {
	w.tb.Helper()
	for range 4 {
		for _, n := range w.state.Snapshot().Nodes {
			records, refused := mesh.Settle(w.state.Snapshot(), n.ID, w.time)
			for e, err := range refused {
				w.tb.Fatalf("endpoint %s: %v", e, err)
			}
			for _, r := range records {
				w.write(n.ID, r)
			}
		}
	}
}

func (w *world) network(name string) mesh.NetworkID {
	w.tb.Helper()
	n, err := mesh.NewNetwork(w.state.Snapshot(), id[mesh.NetworkID]('b', len(w.state.Records())), name, netip.Prefix{})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.write(nodeID(1), mesh.NetworkRecord(n))
	return n.ID
}

func (w *world) service(name string, networks []mesh.NetworkID, ports ...mesh.PublishedPort) mesh.ServiceID {
	w.tb.Helper()
	s := &mesh.Service{
		ID: id[mesh.ServiceID]('c', len(w.state.Records())), Name: name,
		Networks: networks, Publish: ports, Scheduler: mesh.RoundRobin,
	}
	w.write(nodeID(1), mesh.ServiceRecord(s))
	return s.ID
}

func (w *world) endpoint(s mesh.ServiceID, name string, node int) *mesh.Endpoint {
	w.tb.Helper()
	e := &mesh.Endpoint{
		ID: id[mesh.EndpointID]('d', len(w.state.Records())), Name: name,
		Service: s, Node: nodeID(node), State: mesh.Ready, Weight: 1,
	}
	w.write(nodeID(node), mesh.EndpointRecord(e))
	w.settle()
	return e
}

func port(published, target uint16, proto mesh.Proto) mesh.PublishedPort {
	return mesh.PublishedPort{Proto: proto, Published: published, Target: target}
}

// scenes are the states whose plans on node n1 are kept as golden files.
func scenes() map[string]func(w *world) {
	web := []mesh.PublishedPort{port(8080, 80, mesh.TCP), port(8080, 80, mesh.UDP)}
	return map[string]func(w *world){
		"no service": func(*world) {},
		"one endpoint local": func(w *world) {
			w.endpoint(w.service("web", nil, web...), "web.1", 1)
		},
		"one endpoint remote": func(w *world) {
			w.endpoint(w.service("web", nil, web...), "web.1", 2)
		},
		"no endpoint": func(w *world) { w.service("web", nil, web...) },
		"two services": func(w *world) {
			s := w.service("web", nil, web...)
			w.endpoint(s, "web.1", 1)
			w.endpoint(s, "web.2", 2)
			w.endpoint(w.service("dns", nil, port(5353, 53, mesh.UDP)), "dns.1", 3)
		},
		"three networks": func(w *world) {
			blue, red := w.network("blue"), w.network("red")
			s := w.service("web", []mesh.NetworkID{blue, red}, web...)
			w.endpoint(s, "web.1", 1)
			w.endpoint(s, "web.2", 2)
			w.endpoint(w.service("db", []mesh.NetworkID{blue}), "db.1", 1)
		},
		"published on one address": func(w *world) {
			six := port(8080, 80, mesh.TCP)
			six.Addr = netip.MustParseAddr("2001:db8::1")
			four := port(8080, 81, mesh.TCP)
			four.Addr = netip.MustParseAddr("192.0.2.11")
			w.endpoint(w.service("web", nil, four, six), "web.1", 1)
		},
		"draining": func(w *world) {
			s := w.service("web", nil, web...)
			w.endpoint(s, "web.1", 1)
			e := *w.endpoint(s, "web.2", 2)
			settled, _ := w.state.Get(mesh.EndpointRecord(&e).Key())
			e = *settled.Endpoint
			e.State = mesh.Draining
			w.write(nodeID(2), mesh.EndpointRecord(&e))
		},
		"port conflict": func(w *world) {
			w.endpoint(w.service("web", nil, web...), "web.1", 2)
			w.endpoint(w.service("web", nil, web[0]), "web.1", 3)
		},
		"underlay IPv6": func(w *world) {
			for _, n := range w.state.Snapshot().Nodes {
				next := *n
				next.Addr = netip.MustParseAddr("2001:db8::" + n.Name[1:])
				w.write(n.ID, mesh.NodeRecord(&next))
			}
			s := w.service("web", nil, web...)
			w.endpoint(s, "web.1", 1)
			w.endpoint(s, "web.2", 2)
		},
	}
}

func TestCompileGolden(t *testing.T) {
	for name, build := range scenes() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			build(w)
			p := Compile(mesh.Local{ID: nodeID(1)}, w.state.Snapshot())
			golden.Equal(t, p.Text())
		})
	}
}

// Records that arrive in any order, some of them twice, give the same bytes.
func TestCompileIsOrderFree(t *testing.T) {
	for name, build := range scenes() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3)
			build(w)
			want := Compile(mesh.Local{ID: nodeID(1)}, w.state.Snapshot()).Text()
			records := w.state.Records()
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 1))
				r.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
				var state mesh.State
				for _, rec := range records {
					state.Merge(rec)
					state.Merge(records[r.IntN(len(records))])
				}
				if got := Compile(mesh.Local{ID: nodeID(1)}, state.Snapshot()).Text(); got != want {
					t.Fatalf("seed %d: plan differs from\n%s\ngot\n%s", seed, want, got)
				}
			}
		})
	}
}

func TestCompileOutsideCluster(t *testing.T) {
	var state mesh.State
	if text := Compile(mesh.Local{ID: nodeID(1)}, state.Snapshot()).Text(); text != "" {
		t.Fatalf("a node in no cluster should plan nothing, got\n%s", text)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, services := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			snap := large(b, services)
			b.ReportAllocs()
			for b.Loop() {
				Compile(mesh.Local{ID: nodeID(1)}, snap)
			}
		})
	}
}

// large is a settled cluster of 100 nodes with two endpoints a service; addresses
// are given straight from blocks of /20, which settling one by one would take long for.
func large(b *testing.B, services int) *mesh.Snapshot {
	b.Helper()
	const nodes = 100
	w := newWorld(b, nodes)
	net := *w.state.Snapshot().Network(mesh.IngressNetwork)
	net.Subnet4, net.Bits4 = netip.MustParsePrefix("11.0.0.0/8"), 20
	w.write(nodeID(1), mesh.NetworkRecord(&net))
	for i := range nodes {
		n := *w.state.Snapshot().Node(nodeID(i + 1))
		six := net.Subnet6.Addr().As16()
		six[7] = byte(i)
		n.Blocks = []mesh.Block{{
			Network: net.ID, V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i), 0, 0}), 20),
			V6: netip.PrefixFrom(netip.AddrFrom16(six), 64), Claim: 1,
		}}
		w.write(n.ID, mesh.NodeRecord(&n))
	}
	for i := range services {
		s := w.service(fmt.Sprintf("s%d", i), nil, port(uint16(10000+i), 80, mesh.TCP))
		for j := range 2 {
			k := 2*i + j
			block := w.state.Snapshot().Node(nodeID(k%nodes + 1)).Blocks[0]
			four, six := block.V4.Addr().As4(), block.V6.Addr().As16()
			four[2], four[3] = byte(k/nodes>>8), byte(k/nodes)
			six[14], six[15] = four[2], four[3]+1
			w.write(nodeID(k%nodes+1), mesh.EndpointRecord(&mesh.Endpoint{
				ID: id[mesh.EndpointID]('e', k), Name: fmt.Sprintf("s%d.%d", i, j), Service: s,
				Node: nodeID(k%nodes + 1), State: mesh.Ready, Weight: 1,
				Attached: []mesh.Attachment{{Network: net.ID, V4: netip.AddrFrom4(four), V6: netip.AddrFrom16(six)}},
			}))
		}
	}
	return w.state.Snapshot()
}
