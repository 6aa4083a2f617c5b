package trace_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

const (
	network      = "sluice-1048576"
	endpointOfN1 = "ep-d000000000000008"
)

// mutation takes one object away from what n1's kernel holds.
type mutation struct {
	name   string
	entry  int // the node that is dialled
	cut    func(p *plan.Plan)
	broken string // the hops that must be broken, as "NUMBER BACKEND"
	says   string
}

func find(p *plan.Plan, sandbox string) *plan.Sandbox {
	return p.Sandboxes[slices.IndexFunc(p.Sandboxes, func(s *plan.Sandbox) bool { return s.Name == sandbox })]
}

// without takes the elements away whose text begins so.
func without(sandbox, family, set, begins string) func(*plan.Plan) {
	return func(p *plan.Plan) {
		s := find(p, sandbox).Table(family).Set(set)
		s.Elements = slices.DeleteFunc(s.Elements, func(e plan.Element) bool { return strings.HasPrefix(e.String(), begins) })
	}
}

// noDoor is what the kernel takes along with the device.
func noDoor(p *plan.Plan) {
	sbox, net := find(p, plan.IngressSandbox), find(p, network)
	sbox.Links = slices.DeleteFunc(sbox.Links, func(l plan.Link) bool { return l.Name == plan.DoorOut })
	net.Links = slices.DeleteFunc(net.Links, func(l plan.Link) bool { return l.Name == plan.DoorIn })
	sbox.Neighs = slices.DeleteFunc(sbox.Neighs, func(n plan.Neigh) bool { return n.Link == plan.DoorOut })
	sbox.Routes = slices.DeleteFunc(sbox.Routes, func(r plan.Route) bool { return r.Link == plan.DoorOut })
}

// mutationsBy are those of a balancer.
func mutationsBy(balancer mesh.Balancer) []mutation {
	if balancer == mesh.BalancerIPVS {
		return append(common(), ofIPVS()...)
	}
	return append(common(), ofNFT()...)
}

func ofNFT() []mutation {
	return []mutation{
		{"way", 1, without(plan.IngressSandbox, "inet", "ways", "0x64ac5601"), "4 -", "ways"},
		{"way of another service", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox).Table("inet").Set("ways")
			s.Elements = slices.DeleteFunc(s.Elements, func(e plan.Element) bool { return e.Key != "0x64ac5601" })
		}, "", ""},
		{"slot", 1, without(plan.IngressSandbox, "inet", "slots4", "0x64ac5601 . 0x2"), "4 -", "slots4"},
		{"slot of the other family", 1, without(plan.IngressSandbox, "inet", "slots6", ""), "", ""},
		{"slot that leads elsewhere", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox).Table("inet").Set("slots4")
			for i := range s.Elements {
				s.Elements[i].Value = "198.18.6.99 . 80"
			}
		}, "4 -", "slots4"},
		{"balancer's rules", 1, func(p *plan.Plan) {
			c := find(p, plan.IngressSandbox).Table("inet").Chain("balance", "")
			c.Rules = c.Rules[1:]
		}, "3 -, 4 -, 5 198.18.6.84:80, 10 198.18.6.84:80, 5 198.18.47.54:80, 10 198.18.47.54:80", "nft table inet"},
	}
}

func ofIPVS() []mutation {
	return []mutation{
		{"IPVS backend", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox)
			s.Backends = slices.DeleteFunc(s.Backends, func(b plan.Backend) bool { return b.Addr.String() == "198.18.6.84" })
		}, "4 -", "backend  fwm 0x64ac5601 198.18.6.84:80"},
		{"one more IPVS backend", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox)
			s.Backends = append(s.Backends, plan.Backend{Mark: 0x64ac5601, Addr: netip.MustParseAddr("198.18.6.99"), Port: 80, Weight: 1})
		}, "4 -", "delete ingress-sbox: backend"},
	}
}

func common() []mutation {
	n1, n2 := "198.18.47.54:80", "198.18.6.84:80" // the backends of web
	slot1, slot3 := "02:53:e0:00:8c:c8", "02:53:e0:00:fa:69"
	return []mutation{
		{"nothing", 1, func(*plan.Plan) {}, "", ""},
		{"capture", 1, without(plan.HostSandbox, "inet", "published", "tcp . 8080"), "1 -", "published"},
		{"capture of another port", 1, without(plan.HostSandbox, "inet", "published", "udp . 5353"), "", ""},
		{"mark entry", 1, without(plan.IngressSandbox, "inet", "services4", "169.254.77.2 . tcp . 8080"), "3 -", "services4"},
		{"mark entry of the other family", 1, without(plan.IngressSandbox, "inet", "services6", ""), "", ""},
		{"FDB entry", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox)
			s.FDB = slices.DeleteFunc(s.FDB, func(f plan.FDBEntry) bool { return f.Dst.String() == "192.0.2.12" })
		}, "5 " + n2, "fdb      vx         02:53:d0:00:b1:3a"},
		{"door", 1, noDoor, "5 " + n1 + ", 9 " + n1, "door"},
		{"missing block route", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox)
			s.Routes = slices.DeleteFunc(s.Routes, func(r plan.Route) bool { return r.Dst.String() == "198.18.6.64/27" })
		}, "5 " + n2, "route    198.18.6.64/27"},
		{"stray route", 1, func(p *plan.Plan) {
			s := find(p, plan.IngressSandbox)
			s.Routes = append(s.Routes, plan.Route{Kind: plan.RouteUnreachable, Dst: netip.MustParsePrefix("198.18.6.84/32")})
		}, "5 " + n2, "delete ingress-sbox: route"},
		// A device that is down is one whose link differs.
		{"uplink down", 1, func(p *plan.Plan) {
			for i := range find(p, plan.IngressSandbox).Links {
				if l := &find(p, plan.IngressSandbox).Links[i]; l.Name == plan.Uplink {
					l.MTU = 1400
				}
			}
		}, "2 -, 10 " + n2 + ", 10 " + n1, "link     uplink"},
		{"peers", 1, without(plan.HostSandbox, "inet", "peers4", "192.0.2.12"), "10 " + n2, "peers4"},
		{"peers, of a sender", 2, without(plan.HostSandbox, "inet", "peers4", "192.0.2.12"), "6 " + n1, "peers4"},
		{"zone entry", 1, without(network, "inet", "node_zones", slot1), "7 " + n1, "node_zones"},
		{"zone entry, of a sender", 3, without(network, "inet", "node_zones", slot3), "7 " + n1, "node_zones"},
		{"isolation set entry", 1, without(network, "inet", "targets4", "198.18.47.54 . tcp"), "7 " + n1, "targets4"},
		{"isolation set entry, of a sender", 3, without(network, "inet", "targets4", "198.18.47.54 . tcp"), "7 " + n1, "targets4"},
		{"endpoint's route", 1, func(p *plan.Plan) {
			s := find(p, network)
			s.Routes = slices.DeleteFunc(s.Routes, func(r plan.Route) bool { return r.Dst.String() == "198.18.47.54/32" })
		}, "8 " + n1, "route    198.18.47.54/32"},
		{"endpoint's address", 1, func(p *plan.Plan) {
			s := find(p, endpointOfN1)
			s.Addrs = slices.DeleteFunc(s.Addrs, func(a plan.Addr) bool { return a.Prefix.Addr().Is4() })
		}, "8 " + n1, "addr     sluice0"},
		{"reply mark", 1, without(network, "inet", "zone_marks", ""), "9 " + n1, "zone_marks"},
		{"egress entry", 1, without(network, "netdev", "own_macs", ""), "9 " + n1, "own_macs"},
		{"egress entry, of a sender", 3, without(network, "netdev", "node_macs", "0x8000fa69"), "9 " + n1, "node_macs"},
		{"FDB entry back, of a sender", 3, func(p *plan.Plan) {
			s := find(p, network)
			s.FDB = slices.DeleteFunc(s.FDB, func(f plan.FDBEntry) bool { return f.Dst.String() == "192.0.2.13" })
		}, "9 " + n1, "fdb      vx"},
		{"blocks", 1, without(plan.IngressSandbox, "inet", "blocks4", "02:53:d0:00:b1:3a"), "10 " + n2, "blocks4"},
		{"egress table", 1, func(p *plan.Plan) {
			s := find(p, network)
			s.Tables = slices.DeleteFunc(s.Tables, func(t *plan.Table) bool { return t.Family == "netdev" })
		}, "9 " + n1, "nft table netdev"},
	}
}

// explain walks to port 8080 of a node and compares with the ops of n1.
func explain(t *testing.T, q trace.Question, ops []kernel.Op) []trace.Hop {
	t.Helper()
	differences, err := agent.Differences(ops)
	if err != nil {
		t.Fatal(err)
	}
	hops, err := trace.Walk(q)
	if err != nil {
		t.Fatal(err)
	}
	trace.Compare(hops, "n1", differences)
	return hops
}

// brokenHops are those that are, as a mutation has them.
func brokenHops(hops []trace.Hop) string {
	var list []string
	for _, h := range hops {
		if h.State == trace.Broken {
			backend := "-"
			if h.Backend.IsValid() {
				backend = h.Backend.String()
			}
			list = append(list, fmt.Sprintf("%d %s", h.Number, backend))
		}
	}
	return strings.Join(list, ", ")
}

// Each object of the path, taken away from the kernel, breaks the hop that it
// belongs to and no other.
func TestMutations(t *testing.T) {
	for _, balancer := range []mesh.Balancer{mesh.BalancerIPVS, mesh.BalancerNFT} {
		for _, m := range mutationsBy(balancer) {
			t.Run(string(balancer)+"/"+m.name, func(t *testing.T) { testMutation(t, balancer, m) })
		}
	}
}

func testMutation(t *testing.T, balancer mesh.Balancer, m mutation) {
	t.Helper()
	held := clusterBy(t, balancer, "two services")[0].Plan // one to spoil, equal to the one below
	m.cut(held)
	f := kernel.NewFake()
	for _, s := range held.Sandboxes {
		if s.Kind == plan.KindEndpoint {
			f.Pin(s.Name)
		}
	}
	if report := f.Apply(t.Context(), held); len(report.Failed) > 0 {
		t.Fatal(report.Failed)
	}
	nodes := clusterBy(t, balancer, "two services")
	ops, err := f.Diff(t.Context(), nodes[0].Plan)
	if err != nil {
		t.Fatal(err)
	}
	if (len(ops) == 0) != (m.name == "nothing") {
		t.Fatalf("the kernel differs by %v", ops)
	}
	q := ask(nodes, m.entry, "tcp", 8080)
	hops := explain(t, q, ops)
	if got := brokenHops(hops); got != m.broken {
		t.Errorf("broken are %q, want %q; the kernel differs by %v\n%s", got, m.broken, ops, text(q, hops))
	}
	if m.broken == "" {
		return
	}
	if v := trace.Verdict(hops); !strings.Contains(v, m.says) || !strings.Contains(v, "n1") {
		t.Errorf("the verdict is %q, and should say %q", v, m.says)
	}
}

// What another node holds is not known here, and what this packet does not meet
// is counted.
func TestCompareElsewhere(t *testing.T) {
	q := ask(cluster(t, "two services"), 2, "udp", 8080)
	hops, err := trace.Walk(q)
	if err != nil {
		t.Fatal(err)
	}
	other := trace.Compare(hops, "n1", []trace.Difference{
		trace.Element(plan.HostSandbox, "inet", "published", "udp . 8080", "gone"), // of n1: n2 is dialled
	})
	states := map[string]trace.State{}
	for _, h := range hops {
		states[h.Node] = h.State
	}
	want := map[string]trace.State{"n1": trace.OK, "n2": trace.Unchecked}
	if other != 1 || !maps.Equal(states, want) || !strings.Contains(trace.Verdict(hops), "as planned") {
		t.Errorf("%d others\n%s", other, text(q, hops))
	}
	if trace.Compare(hops, "n1", []trace.Difference{trace.NoSandbox(network, "add the namespace")}) != 0 || brokenHops(hops) == "" {
		t.Errorf("the missing sandbox is not seen\n%s", text(q, hops))
	}
}

type unheard struct{}

func (unheard) String() string { return "unheard of" }

func TestUnknownDifference(t *testing.T) {
	if _, err := agent.Differences([]kernel.Op{{Verb: kernel.Add, Sandbox: "host", Object: unheard{}}}); err == nil {
		t.Error("an op of an unknown kind should be an error")
	}
}

// The same on this machine's kernel, with objects taken away by hand.
func TestRealKernel(t *testing.T) {
	host, err := space.New(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	}()
	nodes := cluster(t, "two services")
	if !kernel.HasIPVS() {
		nodes[0].Plan = withoutIPVS(nodes[0].Plan)
	}
	err = host.Do(func() error { return onKernel(t, nodes) })
	if err != nil {
		t.Fatal(err)
	}
}

// withoutIPVS is what a kernel without IP_VS can hold of a plan.
func withoutIPVS(p *plan.Plan) *plan.Plan {
	held := &plan.Plan{}
	for _, s := range p.Sandboxes {
		c := *s
		c.Virtual, c.Backends, c.Timeouts = nil, nil, plan.Timeouts{}
		c.Sysctls = slices.DeleteFunc(slices.Clone(s.Sysctls), func(s plan.Sysctl) bool { return strings.HasPrefix(s.Key, "net/ipv4/vs/") })
		held.Sandboxes = append(held.Sandboxes, &c)
	}
	return held
}

// byHand are commands run in the host's namespace, and the hop that each breaks first.
type byHand struct{ command, first string }

func spoiled() []byHand {
	all := []byHand{
		{"true", ""},
		{"nft flush set inet sluice published", "1 -"},
		{"nft flush ruleset", "1 -"},
		{"ip link set sl-ingress down", "2 -"},
		{"nsenter --net=$SBOX ip link set uplink down", "2 -"},
		{"nsenter --net=$SBOX nft flush map inet sluice services4", "3 -"},
		{"nsenter --net=$SBOX ip route del 198.18.6.64/27", "5 198.18.6.84:80"},
		{"nsenter --net=$SBOX bridge fdb del 02:53:d0:00:b1:3a dev vx", "5 198.18.6.84:80"},
		{"nsenter --net=$SBOX ip link del door", "5 198.18.47.54:80"},
		{"nsenter --net=$NET nft flush map inet sluice node_zones", "7 198.18.47.54:80"},
		{"nsenter --net=$NET nft flush set inet sluice targets4", "7 198.18.47.54:80"},
		{"nsenter --net=$NET nft flush map netdev sluice own_macs", "9 198.18.47.54:80"},
	}
	if kernel.HasIPVS() {
		const mark = "1689015809" // 0x64ac5601
		all = append(all, byHand{"nsenter --net=$SBOX ipvsadm -d -f " + mark + " -r 198.18.6.84:80", "4 -"})
	}
	return all
}

func onKernel(t *testing.T, nodes []trace.Node) (err error) {
	t.Helper()
	held := nodes[0].Plan
	k, err := kernel.New(t.TempDir())
	if err != nil {
		return err
	}
	defer k.Close()
	w, err := kernel.NewWorkload()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := k.Pin(endpointOfN1, w.Path()); err != nil {
		return err
	}
	defer func() {
		if report := k.Apply(t.Context(), &plan.Plan{}); len(report.Failed) > 0 {
			t.Error(report.Failed)
		}
	}()
	q := ask(cluster(t, "two services"), 1, "tcp", 8080) // walked with IPVS: only the kernel lacks it
	paths := strings.NewReplacer("$NET", k.Path(network), "$SBOX", k.Path(plan.IngressSandbox))
	for _, m := range spoiled() {
		if report := k.Apply(t.Context(), held); len(report.Failed) > 0 {
			return fmt.Errorf("%v", report.Failed)
		}
		cmd := exec.Command("sh", "-ec", paths.Replace(m.command))
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", m.command, err)
		}
		ops, err := k.Diff(t.Context(), held)
		if err != nil {
			return err
		}
		hops := explain(t, q, ops)
		if first, _, _ := strings.Cut(brokenHops(hops), ","); first != m.first {
			t.Errorf("%s: first broken is %q, want %q\n%s", m.command, first, m.first, text(q, hops))
		}
	}
	return nil
}
