package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// base is one node with bridge networks, and who lives there.
//
//	client .100 ---- n1 .11, .21
//	                 nat      172.20.0.1, fd20:0::1   nat-target   nat-same
//	                 internal 172.20.1.1, fd20:1::1   internal-... and so on
//	                 other    172.20.4.1, fd20:4::1   other
type base struct {
	*cluster.Cluster
	node      *cluster.Node
	residents map[string]*resident // by name
	networks  int                  // how many were made
	protos    []string             // that the matrix's ports are published over
	servers   []func() error
	sniffers  []*probe.Sniffer
}

// resident is an endpoint in a namespace of its own, with a server in it that is no process.
type resident struct {
	*space.Space
	name, network string
	sniffer       *probe.Sniffer
	addrs         map[string][]netip.Addr // by network
}

func (r *resident) on(network string, f cluster.Family) netip.Addr {
	for _, a := range r.addrs[network] {
		if a.Is4() == (f == cluster.IPv4) {
			return a
		}
	}
	return netip.Addr{}
}

func (r *resident) addr(f cluster.Family) netip.Addr { return r.on(r.network, f) }

// The ports at an endpoint: what each kind of published port leads to, and where markers go.
const (
	loopbackTarget = 82
	addressTarget  = 83
	markerTarget   = 84
)

// kinds are the bridge networks by name, as the matrix calls them and as they are created.
func kinds() []struct {
	name string
	kind matrix.Network
	args []string
} {
	return []struct {
		name string
		kind matrix.Network
		args []string
	}{
		{"nat", matrix.NAT, nil},
		{"internal", matrix.Internal, []string{"--internal"}},
		{"apart", matrix.Apart, []string{"--no-icc"}},
		{"routed", matrix.Routed, []string{"--direct-routing", "allow"}},
	}
}

func kindOf(n matrix.Network) int {
	return slices.IndexFunc(matrix.Networks(), func(k matrix.Network) bool { return k == n })
}

func nameOf(n matrix.Network) string { return kinds()[kindOf(n)].name }

// The node's second address.
func second(f cluster.Family) netip.Prefix {
	if f == cluster.IPv4 {
		return netip.MustParsePrefix("192.168.50.21/32")
	}
	return netip.MustParsePrefix("fd50::21/128")
}

// subnet is the network's with this number.
func subnet(i int, f cluster.Family) netip.Prefix {
	if f == cluster.IPv4 {
		return netip.MustParsePrefix(fmt.Sprintf("172.20.%d.0/24", i))
	}
	return netip.MustParsePrefix(fmt.Sprintf("fd20:%d::/64", i))
}

// gateway is the network's own address.
func gateway(i int, f cluster.Family) netip.Addr { return subnet(i, f).Addr().Next() }

// publishedBy is the number of a port that the network with this number publishes.
func publishedBy(i int, target uint16) uint16 {
	return 8000 + uint16(i)*100 + target - probe.TargetPort
}

// startBase makes the node with everything that the matrix needs.
func startBase(t *testing.T, count int) *base {
	t.Helper()
	return startBaseAs(t, cluster.Config{Count: count})
}

// startBaseAs makes it of nodes of a kind.
func startBaseAs(t *testing.T, cfg cluster.Config) *base {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Sluice, cfg.Workload, cfg.Progress, cfg.Balancer = program(t), []string{self, "serve"}, t.Logf, "nft"
	c, err := cluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &base{Cluster: c, node: c.Node("n1"), residents: map[string]*resident{}, protos: protocols()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *base) close() error {
	var errs []error
	for _, s := range b.sniffers {
		errs = append(errs, s.Close())
	}
	for _, stop := range b.servers {
		errs = append(errs, stop())
	}
	return errors.Join(append(errs, b.Close())...)
}

// sluice runs the program on the first node; it is expected to succeed.
func (b *base) sluice(t *testing.T, args ...string) string {
	t.Helper()
	text, err := b.node.Sluice(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// populate makes the networks of the matrix, and on each an endpoint that is dialled and
// another that dials.
func (b *base) populate(t *testing.T) {
	t.Helper()
	b.secondAddress(t)
	for _, k := range kinds() {
		i := b.network(t, k.name, k.args...)
		b.sluice(t, append([]string{"service", "create", k.name + "-target", "--network", k.name}, publications(i, b.protos)...)...)
		b.sluice(t, "service", "create", k.name+"-same", "--network", k.name)
		b.attach(t, b.node, k.name+"-target", k.name)
		b.attach(t, b.node, k.name+"-same", k.name)
		for _, f := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			if err := b.Client.Route(subnet(i, f), b.node.Addr(f)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.network(t, "other")
	b.sluice(t, "service", "create", "other", "--network", "other")
	b.attach(t, b.node, "other", "other")
	b.rest(t)
}

// secondAddress is the node's, for being dialled: what leaves the node has its first.
func (b *base) secondAddress(t *testing.T) {
	t.Helper()
	if err := b.node.Address("eth0", second(cluster.IPv4), second(cluster.IPv6)); err != nil {
		t.Fatal(err)
	}
	said(t, b.node.Space, "ip", "address", "change", second(cluster.IPv6).String(), "dev", "eth0", "preferred_lft", "0")
}

// network makes a bridge network and returns its number, which its subnets are made of.
func (b *base) network(t *testing.T, name string, args ...string) int {
	t.Helper()
	i := b.networks
	b.networks++
	create := []string{"network", "create", name, "--driver", "bridge", "--subnet", subnet(i, cluster.IPv4).String(), "--subnet", subnet(i, cluster.IPv6).String()}
	b.sluice(t, append(create, args...)...)
	return i
}

// publications are what the service on the network with this number publishes.
func publications(i int, protos []string) []string {
	var args []string
	publish := func(at string, target uint16) {
		for _, proto := range protos {
			args = append(args, "--publish", fmt.Sprintf("%s%d:%d/%s,mode=host", at, publishedBy(i, target), target, proto))
		}
	}
	publish("", probe.TargetPort)
	publish("", markerTarget)
	publish("127.0.0.1:", loopbackTarget)
	publish("[::1]:", loopbackTarget)
	publish(second(cluster.IPv4).Addr().String()+":", addressTarget)
	publish("["+second(cluster.IPv6).Addr().String()+"]:", addressTarget)
	return args
}

// rest waits until the kernel is what the plan says.
func (b *base) rest(t *testing.T) {
	t.Helper()
	if err := b.AtRest(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// of is the first endpoint of a service.
func (b *base) of(service string) *resident { return b.residents[service+".1"] }

// attach makes an endpoint of a service in a namespace of its own, with a server in it.
func (b *base) attach(t *testing.T, n *cluster.Node, service, network string, args ...string) *resident {
	t.Helper()
	name := service + ".1"
	for i := 2; b.residents[name] != nil; i++ {
		name = fmt.Sprintf("%s.%d", service, i)
	}
	s, err := b.Space(name)
	if err != nil {
		t.Fatal(err)
	}
	r := &resident{Space: s, name: name, network: network}
	b.residents[name] = r
	b.serve(t, r, name, probe.TargetPort, probe.HiddenPort, loopbackTarget, addressTarget)
	if slices.Contains(b.protos, "sctp") {
		b.serveSCTP(t, r, probe.TargetPort, probe.HiddenPort, loopbackTarget, addressTarget)
	}
	if r.sniffer, err = probe.Sniff(s); err != nil {
		t.Fatal(err)
	}
	b.sniffers = append(b.sniffers, r.sniffer)
	until(t, n.Name+" knows service "+service, func() error { _, err := n.Service(t.Context(), service); return err })
	attach := []string{"endpoint", "attach", "--service", service, "--name", name, "--netns", s.Path}
	if _, err := n.Sluice(t.Context(), append(attach, args...)...); err != nil {
		t.Fatal(err)
	}
	b.learn(t, r, service)
	return r
}

// learn waits until the endpoint has both addresses on its network.
func (b *base) learn(t *testing.T, r *resident, service string) {
	t.Helper()
	until(t, r.name+" has its addresses", func() error {
		s, err := b.node.Service(t.Context(), service)
		if err != nil {
			return err
		}
		r.addrs = map[string][]netip.Addr{}
		for _, e := range s.GetEndpoints() {
			if e.GetName() == r.name {
				r.addrs, err = addresses(e)
			}
		}
		if err == nil && len(r.addrs[r.network]) != 2 {
			err = fmt.Errorf("%s has %v", r.name, r.addrs)
		}
		return err
	})
}

func addresses(e *sluicev1.Endpoint) (map[string][]netip.Addr, error) {
	known := map[string][]netip.Addr{}
	for _, a := range e.GetAttachments() {
		for _, text := range a.GetAddresses() {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			known[a.GetNetwork()] = append(known[a.GetNetwork()], addr)
		}
	}
	return known, nil
}

// serve lets this process answer in a namespace until the end of the test.
func (b *base) serve(t *testing.T, at probe.Place, name string, ports ...uint16) {
	t.Helper()
	var server *probe.Server
	err := at.Do(func() (err error) {
		server, err = probe.Listen(name, ports...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	b.servers = append(b.servers, func() error { cancel(); return <-done })
}

// inspect is an endpoint as the node knows it.
func (b *base) inspect(t *testing.T, name string) *sluicev1.Endpoint {
	t.Helper()
	var answer sluicev1.GetEndpointResponse
	text := b.sluice(t, "endpoint", "inspect", name, "-o", "json")
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("endpoint inspect %s: %v: %s", name, err, text)
	}
	return answer.GetEndpoint()
}

// said runs a program in a namespace and returns what it printed.
func said(t *testing.T, at *space.Space, command ...string) string {
	t.Helper()
	text, err := at.Run(t.Context(), command[0], command[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}
