package kernel_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// lock is the host's lock as the nft program lists it, one part a line; "" where there is none.
func (n *oneNode) lock() string {
	n.t.Helper()
	out, err := n.host.Run(n.t.Context(), "sh", "-c", "nft -s list table inet "+plan.LockTable+" 2>/dev/null || true")
	n.must(err)
	return out
}

// shell runs a command in the host.
func (n *oneNode) shell(command string) string {
	n.t.Helper()
	out, err := n.host.Run(n.t.Context(), "sh", "-ec", command)
	if err != nil {
		n.t.Fatalf("%s: %v: %s", command, err, out)
	}
	return out
}

// trimmedLines are a text's, without indentation and without those that are empty.
func trimmedLines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

// What the socket has loaded is what the nft program would have loaded.
func TestLockIsAsPlanned(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n := newOneNode(t, mesh.BalancerNFT)
	n.locked = true
	n.world.Bridge("blue", mesh.NetworkWish{})
	n.serve(n.world.Service("a", []mesh.NetworkID{n.world.Bridge("red", mesh.NetworkWish{Routed: true})}), "a.1")
	n.round()
	want := n.plan().Host().Lock
	other := newSpace(t, "other")
	text, err := other.Run(t.Context(), "sh", "-ec", "nft -f - <<'END'\n"+want.Ruleset()+"END\nnft -s list table inet "+plan.LockTable)
	n.must(err)
	body := func(text string) []string {
		return slices.DeleteFunc(trimmedLines(text), func(line string) bool {
			return strings.HasPrefix(line, "table ") || strings.HasPrefix(line, "flags owner")
		})
	}
	if got, planned := body(n.lock()), body(text); len(got) == 0 || !slices.Equal(got, planned) {
		t.Errorf("the kernel has\n%s\nthe plan says\n%s", strings.Join(got, "\n"), strings.Join(planned, "\n"))
	}
}

// The lock stays when others flush all rules, is nobody else's to change, follows networks, comes
// again when its socket fails, and ends with the agent or a reset.
func TestLockIsOurs(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n := newOneNode(t, mesh.BalancerNFT)
	n.locked = true
	n.serve(n.world.Service("a", []mesh.NetworkID{n.world.Bridge("blue", mesh.NetworkWish{})}), "a.1")
	n.shell("nft 'table inet " + plan.LockTable + " { chain c { }; }'") // somebody's, by the same name
	n.round()
	before := n.lock()
	if !strings.Contains(before, "owner") || strings.Contains(before, "chain c ") {
		t.Fatalf("the lock is %q", before)
	}
	n.shell("nft flush ruleset; ! nft delete table inet " + plan.LockTable + " 2>/dev/null")
	if after := n.lock(); after != before {
		t.Errorf("flushed, the lock is %q", after)
	}
	n.round()
	n.serve(n.world.Service("b", []mesh.NetworkID{n.world.Bridge("red", mesh.NetworkWish{})}), "b.1")
	n.round()
	if strings.Count(n.lock(), "sl-b") <= strings.Count(before, "sl-b") {
		t.Errorf("with another network the lock is %s", n.lock())
	}
	second, err := secondProcess(n)
	n.must(err)
	if ops, err := second.Diff(t.Context(), n.plan()); err != nil || slices.ContainsFunc(ops, is[kernel.LockLoad]) {
		t.Errorf("another process would load the lock: %v, %v", ops, err)
	}
	n.must(second.Close())
	n.must(n.kernel.Close())
	if left := n.lock(); left != "" {
		t.Errorf("without an agent there is a lock: %s", left)
	}
	n.open()
	n.round()
	if n.lock() == "" {
		t.Error("the next agent has no lock")
	}
	n.apply(&plan.Plan{})
	if left := n.lock(); left != "" {
		t.Errorf("after a reset there is a lock: %s", left)
	}
}

// secondProcess is one more process in the same host.
func secondProcess(n *oneNode) (k *kernel.Kernel, err error) {
	err = n.host.Do(func() (fault error) {
		k, fault = kernel.New(n.t.TempDir())
		return fault
	})
	return k, err
}

// With all of the host's rules flushed, what the rules kept from endpoints is kept from them, what was
// open goes on, and nothing leaves with an endpoint's own address.
func TestFlushedHostIsClosed(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	n := newOneNode(t, mesh.BalancerNFT)
	n.locked = true
	blue, red := n.world.Bridge("blue", mesh.NetworkWish{}), n.world.Bridge("red", mesh.NetworkWish{})
	n.serve(n.world.Service("a", []mesh.NetworkID{blue}, scene.OwnPort(8081, 80, mesh.TCP), scene.Port(webPort, 80, mesh.TCP)), "a.1")
	n.serve(n.world.Service("b", []mesh.NetworkID{red}), "b.1")
	n.serve(n.world.Service("c", []mesh.NetworkID{n.world.Bridge("green", mesh.NetworkWish{Routed: true})}), "c.1")
	n.round()
	n.listen(n.client, "client")
	a, err := space.Open(n.kernel.Path(plan.EndpointSandbox(string(n.endpoint("a.1").ID))))
	n.must(err)
	t.Cleanup(func() { n.must(a.Close()) })
	for _, e := range []string{"a.1", "b.1"} { // a route that nobody gave the client
		for _, at := range n.endpoint(e).Attached {
			_, err := n.client.Run(t.Context(), "sh", "-ec", "ip route add "+at.V4.String()+" via 192.0.2.11; ip -6 route add "+at.V6.String()+" via 2001:db8::11")
			n.must(err)
		}
	}
	_, err = n.client.Run(t.Context(), "sh", "-ec", "ip route add 169.254.77.0/24 via 192.0.2.11")
	n.must(err)
	bridged, routed := n.endpoint("b.1").Attached[0], n.endpoint("c.1").Attached[0]
	forbidden := []netip.AddrPort{
		netip.AddrPortFrom(bridged.V4, probe.TargetPort), netip.AddrPortFrom(bridged.V6, probe.TargetPort),
		netip.AddrPortFrom(plan.Uplink4(plan.UplinkSandboxNumber).Addr(), webPort),
	}
	apart := append(slices.Clone(forbidden[:2]), netip.AddrPortFrom(routed.V4, probe.TargetPort), netip.AddrPortFrom(routed.V6, probe.TargetPort))
	closed := func(when string) {
		t.Helper()
		for _, to := range forbidden {
			if got, err := (probe.Client{Place: n.client, Wait: 300 * time.Millisecond}).Get(to); err == nil {
				t.Errorf("%s, the client reaches %s of %s", when, got.Name, to)
			}
		}
		for _, to := range apart {
			if got, err := (probe.Client{Place: a, Wait: 300 * time.Millisecond}).Get(to); err == nil {
				t.Errorf("%s, another bridge reaches %s of %s", when, got.Name, to)
			}
		}
	}
	var open []*probe.Flow
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(nodeAddr(plan.IPv4), 8081), netip.AddrPortFrom(nodeAddr(plan.IPv6), 8081),
		netip.AddrPortFrom(nodeAddr(plan.IPv4), webPort), netip.AddrPortFrom(nodeAddr(plan.IPv6), webPort),
	} {
		f, err := probe.Client{Place: n.client, Wait: 2 * time.Second}.Open("tcp", to)
		n.must(err)
		t.Cleanup(func() { f.Close() })
		open = append(open, f)
	}
	outward, err := probe.Client{Place: a, Wait: 2 * time.Second}.Open("tcp", netip.AddrPortFrom(clientAddr(plan.IPv4, 0), probe.TargetPort))
	n.must(err)
	t.Cleanup(func() { outward.Close() })
	open = append(open, outward)
	goOn := func(when string) {
		t.Helper()
		for _, f := range open {
			if _, err := f.Ask(); err != nil {
				t.Errorf("%s, what is open ends: %v", when, err)
			}
		}
	}
	sniffer, err := probe.Sniff(n.client)
	n.must(err)
	t.Cleanup(func() { n.must(sniffer.Close()) })
	closed("with rules")
	goOn("with rules")
	for range 3 {
		n.shell("nft flush ruleset")
		goOn("flushed")
		closed("flushed")
		begun := n.flow(a, netip.AddrPortFrom(clientAddr(plan.IPv4, 0), probe.TargetPort))
		if got := answered(begun); got != "nobody" {
			t.Errorf("flushed, what an endpoint begins is answered by %s", got)
		}
		n.round()
		goOn("with rules again")
		closed("with rules again")
		if got := answered(begun); got != "client" {
			t.Errorf("with rules again, what an endpoint began is answered by %s", got)
		}
	}
	own := n.endpoint("a.1").Attached[0].V4
	if p, ok := sniffer.Find(func(p probe.Packet) bool { return p.Source.Addr() == own }); ok {
		t.Errorf("a packet left with the endpoint's address: %v", p)
	}
}
