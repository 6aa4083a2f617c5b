package kernel_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// neighbour is a machine on a link of the host, with the host as its router.
func neighbour(t *testing.T, card string, net int) *space.Space {
	t.Helper()
	s, err := space.New(filepath.Join(t.TempDir(), card))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	sh(t, fmt.Sprintf(`
		ip link add %[1]s type veth peer name eth0 netns %[2]s
		ip address add 10.9.%[3]d.1/24 dev %[1]s
		ip address add fd09:%[3]d::1/64 dev %[1]s nodad
		ip link set %[1]s up
		nsenter --net=%[2]s ip address add 10.9.%[3]d.2/24 dev eth0
		nsenter --net=%[2]s ip address add fd09:%[3]d::2/64 dev eth0 nodad
		nsenter --net=%[2]s ip link set eth0 up
		nsenter --net=%[2]s ip route add default via 10.9.%[3]d.1
		nsenter --net=%[2]s ip route add default via fd09:%[3]d::1`, card, s.Path, net))
	return s
}

// reaches says whether an address answers a namespace.
func reaches(t *testing.T, from *space.Space, addr string) bool {
	t.Helper()
	return exec.CommandContext(t.Context(), "nsenter", "--net="+from.Path, "ping", "-c1", "-W1", addr).Run() == nil
}

// hostPlan is the plan of a node without services on the host as it is.
func hostPlan(t *testing.T, k *kernel.Kernel) *plan.Plan {
	t.Helper()
	four, six, err := k.Unrouted()
	if err != nil {
		t.Fatal(err)
	}
	local := mesh.Local{ID: scene.NodeID(1), Unrouted4: four, Unrouted6: six}
	return holdable(agent.Compile(local, scene.New(t, 3).State.Snapshot()))
}

// A host that was no router is none for its neighbours with the agent either; what
// another program puts behind it later is reached.
func TestForwardsForTheMeshOnly(t *testing.T) {
	inHost(t, func() {
		sh(t, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
		left := neighbour(t, "left", 1)
		neighbour(t, "right", 2)
		k := newKernel(t)
		defer k.Close()
		if !reaches(t, left, "10.9.1.1") || !reaches(t, left, "fd09:1::1") || reaches(t, left, "10.9.2.2") {
			t.Fatal("the host should answer, and forward nothing yet")
		}
		mustApply(t, k, hostPlan(t, k))
		defer mustApply(t, k, &plan.Plan{})
		for _, addr := range []string{"10.9.2.2", "fd09:2::2"} {
			if reaches(t, left, addr) {
				t.Errorf("%s is reached through a host that was no router", addr)
			}
		}
		// The second look remembers what the first one saw.
		mustApply(t, k, hostPlan(t, k))
		if reaches(t, left, "10.9.2.2") {
			t.Error("the host became a router at the second look")
		}
		behind := neighbour(t, "theirs0", 3)
		for _, way := range []struct {
			from *space.Space
			to   string
		}{{left, "10.9.3.2"}, {left, "fd09:3::2"}, {behind, "10.9.2.2"}, {behind, "fd09:2::2"}} {
			if !reaches(t, way.from, way.to) {
				t.Errorf("%s is not reached, though what it is behind came to a host that forwards", way.to)
			}
		}
	})
}

// A host that forwarded before goes on to.
func TestRouterStaysRouter(t *testing.T) {
	inHost(t, func() {
		sh(t, "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=0")
		left := neighbour(t, "left", 1)
		neighbour(t, "right", 2)
		k := newKernel(t)
		defer k.Close()
		four, six, err := k.Unrouted()
		if err != nil || len(four) > 0 || !slices.Equal(six, []string{"left", "right"}) {
			t.Errorf("unrouted: %v, %v, %v; want none for IPv4, both for IPv6", four, six, err)
		}
		mustApply(t, k, hostPlan(t, k))
		defer mustApply(t, k, &plan.Plan{})
		if !reaches(t, left, "10.9.2.2") {
			t.Error("a router forwards no longer")
		}
		if reaches(t, left, "fd09:2::2") {
			t.Error("the host became a router for IPv6")
		}
	})
}
