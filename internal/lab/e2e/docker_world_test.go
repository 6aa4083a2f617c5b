package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/docker"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// dockerBase is the world of the matrix with dockerd in the agent's place.
type dockerBase struct {
	*base
	engine       *docker.Engine
	host, client *probe.Sniffer // what comes to the node, and to the client
	processes    bool           // ports have each a process of its own
}

// startDocker makes the machines, dockerd on the node, and its networks and containers.
func startDocker(t *testing.T, d matrix.Daemon) *dockerBase {
	t.Helper()
	c, err := cluster.Machines(t.Context(), cluster.Config{Count: 1, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	b := &dockerBase{base: &base{Cluster: c, node: c.Node("n1"), residents: map[string]*resident{}, protos: protocols()}, processes: d != matrix.NoProcess}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if b.engine, err = docker.Start(t.Context(), b.node.Space, t.TempDir(), self, d.Flags()...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	b.host, b.client = b.sniff(t, b.node), b.sniff(t, b.Client)
	b.populate(t)
	return b
}

func (b *dockerBase) populate(t *testing.T) {
	t.Helper()
	b.secondAddress(t)
	for i, kind := range matrix.Networks() {
		name := nameOf(kind)
		b.network(t, i, name, kind.Options()...)
		b.run(t, name+"-target", name, dockerPublications(i)...)
		b.run(t, name+"-same", name)
		for _, f := range bothFamilies() {
			if err := b.Client.Route(subnet(i, f), b.node.Addr(f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.network(t, len(matrix.Networks()), "other")
	b.run(t, "other", "other")
}

func (b *dockerBase) network(t *testing.T, i int, name string, options ...string) {
	t.Helper()
	options = append([]string{"--ipv6", "--subnet", subnet(i, cluster.IPv4).String(), "--subnet", subnet(i, cluster.IPv6).String()}, options...)
	if err := b.engine.Network(t.Context(), name, options...); err != nil {
		t.Fatal(err)
	}
}

// run runs a container, whose process is the server.
func (b *dockerBase) run(t *testing.T, name, network string, options ...string) {
	t.Helper()
	args := []string{"serve", name + ".1"}
	for _, port := range []int{probe.TargetPort, probe.HiddenPort, loopbackTarget, addressTarget} {
		args = append(args, fmt.Sprint(port))
	}
	c, err := b.engine.Run(t.Context(), name, network, options, args)
	if err != nil {
		t.Fatal(err)
	}
	r := &resident{Space: c.Space, name: name + ".1", network: network, addrs: map[string][]netip.Addr{network: c.Addrs}}
	b.servers = append(b.servers, c.Close)
	b.residents[r.name] = r
	r.sniffer = b.sniff(t, r)
}

func (b *dockerBase) sniff(t *testing.T, at probe.Place) *probe.Sniffer {
	t.Helper()
	s, err := probe.Sniff(at)
	if err != nil {
		t.Fatal(err)
	}
	b.sniffers = append(b.sniffers, s)
	return s
}

// dockerPublications are publications in docker's words.
func dockerPublications(i int) []string {
	var options []string
	for _, arg := range publications(i, protocols()) {
		if spec, ok := strings.CutSuffix(arg, ",mode=host"); ok {
			options = append(options, "--publish", spec)
		}
	}
	return options
}
