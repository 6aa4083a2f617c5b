package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
)

// TestDocker asks a real dockerd with real containers what the matrix asks of the agent, and
// wants of it what docs/DOCKER.md says.
func TestDocker(t *testing.T) {
	feature.Need(t, feature.Namespaces, feature.IPTables, feature.BridgeNetfilter)
	for _, d := range matrix.Daemons() {
		t.Run(strings.ReplaceAll(string(d), " ", "_"), func(t *testing.T) {
			b := startDocker(t, d)
			version, err := b.engine.Version(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if version != matrix.DockerVersion {
				t.Errorf("docker.io is %s, the page is about %s: see what differs, then say so in internal/lab/matrix", version, matrix.DockerVersion)
			}
			b.bridgeNetfilter(t, "1")
			b.compare(t, d, matrix.Cells())
			t.Run("Why", func(t *testing.T) { testWhy(t, b, d) })
		})
	}
}

// compare tries cells with what is known of the daemon.
func (b *dockerBase) compare(t *testing.T, d matrix.Daemon, cells []matrix.Cell) {
	t.Helper()
	compareCells(t, cells, func(c matrix.Cell) (got, want string) {
		c.Want, _ = matrix.Docker(d, c)
		return b.try(c), b.expected(c)
	})
}

// testWhy tries what the reasons say of themselves.
func testWhy(t *testing.T, b *dockerBase, d matrix.Daemon) {
	t.Helper()
	six := said(t, b.node.Space, "ip6tables-nft", "-S") + said(t, b.node.Space, "ip6tables-nft", "-t", "nat", "-S")
	inside := "! -d " + subnet(kindOf(matrix.Internal), cluster.IPv6).String() + " -i "
	if ruled, prefixed := strings.Contains(six, "DOCKER"), strings.Contains(six, inside); ruled != (d != matrix.Usual) || prefixed != ruled {
		t.Errorf("dockerd has rules for IPv6: %v, and one with %q: %v", ruled, inside, prefixed)
	}
	if forwards := said(t, b.node.Space, "cat", "/proc/sys/net/ipv6/conf/all/forwarding"); forwards != "1" {
		t.Errorf("IPv6 forwarding is %s", forwards)
	}
	masqueraded := strings.Contains(said(t, b.node.Space, "iptables-nft", "-t", "nat", "-S"), "--src-type LOCAL -j MASQUERADE")
	if masqueraded != (d == matrix.NoProcess) {
		t.Errorf("what has a local source is masqueraded: %v", masqueraded)
	}
	for _, c := range differing(d, "Nothing comes back to ::1") {
		if c.Proto == "udp" {
			b.answerComesToHost(t, c)
		}
	}
	b.bridgeNetfilter(t, "0")
	defer b.bridgeNetfilter(t, "1")
	compareCells(t, differing(d, "IPv6 does not work inside an internal network"), func(c matrix.Cell) (got, want string) {
		// They have asked for each other in vain, and the kernel waits before it asks again.
		at := netip.AddrPortFrom(b.target(c).addr(cluster.IPv6), markerTarget)
		if err := marker(b.place(c), at, b.target(c)); err != nil {
			return err.Error(), b.expected(c)
		}
		return b.try(c), b.expected(c)
	})
	compareCells(t, differing(d, "A neighbour's own address is kept on the way through the host"), b.tryKept)
}

// answerComesToHost wants the answer that an asker on the host does not get to come as far as the host.
func (b *dockerBase) answerComesToHost(t *testing.T, c matrix.Cell) {
	t.Helper()
	c.Want = matrix.Unanswered
	if got, want := b.try(c), b.expected(c); got != want {
		t.Errorf("%s: %s, want: %s", c.Name(), got, want)
	}
	q := question{who: b.target(c), family: cluster.Family(c.Family)}
	if _, ok := b.host.Find(q.isAnswer); !ok {
		t.Errorf("%s: no answer comes to the host", c.Name())
	}
}

// tryKept dials a neighbour's port through the host where its rules do not see what stays on
// the bridge: the answer is the neighbour's own.
func (b *dockerBase) tryKept(c matrix.Cell) (got, want string) {
	family := cluster.Family(c.Family)
	want = fmt.Sprintf("arrives from %s, then silence", b.place(c).(*resident).addr(family))
	if c.Proto == "udp" {
		want = fmt.Sprintf("arrives from %s, is answered from %s", b.place(c).(*resident).addr(family), b.target(c).addr(family))
	}
	c.Want = matrix.Unanswered
	return b.try(c), want
}

// differing are the cells of a difference.
func differing(d matrix.Daemon, name string) []matrix.Cell {
	i := slices.IndexFunc(matrix.Differences(), func(d matrix.Difference) bool { return d.Name == name })
	if i < 0 {
		panic("no difference " + name) // a mistake in a test, not something that happens
	}
	return slices.DeleteFunc(matrix.Cells(), func(c matrix.Cell) bool {
		_, numbers := matrix.Docker(d, c)
		return !slices.Contains(numbers, i+1)
	})
}
