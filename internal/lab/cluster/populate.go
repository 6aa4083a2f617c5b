package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// What is published, and where the world outside listens.
const (
	Published = 8080 // service web
	Idle      = 8082 // service idle, which has no endpoint
	Nobodys   = 8081 // no service
	World     = 6500 // the client's own server
)

// The bridge that every node has with one and the same subnet.
const ownBridge = "br7"

// BridgeGateway4 is each node's address on its own bridge, BridgeClient4 the
// address of everybody on one: a client on n1 has the one that web.3 has on n3.
func BridgeGateway4() netip.Prefix { return netip.MustParsePrefix("172.31.0.1/24") }

// BridgeClient4 is the address on the bridge.
func BridgeClient4() netip.Prefix { return netip.MustParsePrefix("172.31.0.2/24") }

// BridgeGateway6 is the IPv6 one.
func BridgeGateway6() netip.Prefix { return netip.MustParsePrefix("fd31::1/64") }

// BridgeClient6 is the IPv6 one.
func BridgeClient6() netip.Prefix { return netip.MustParsePrefix("fd31::2/64") }

// bridges gives every node a bridge of its own with the same subnet, and n1 a client on it.
func (c *Cluster) bridges(context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Bridge(ownBridge, BridgeGateway4(), BridgeGateway6()); err != nil {
			return err
		}
	}
	b1, err := c.newSpace("b1")
	if err != nil {
		return err
	}
	if err := c.Node("n1").Plug(ownBridge, "to-b1", b1, "eth0", BridgeClient4(), BridgeClient6()); err != nil {
		return err
	}
	c.Bridged = Host{Space: b1, Name: "b1", V4: BridgeClient4().Addr(), V6: BridgeClient6().Addr()}
	return errors.Join(
		b1.Route(netip.MustParsePrefix("0.0.0.0/0"), BridgeGateway4().Addr()),
		b1.Route(netip.MustParsePrefix("::/0"), BridgeGateway6().Addr()),
	)
}

// join makes one cluster of the nodes.
func (c *Cluster) join(ctx context.Context) error {
	c.Progress("sluice init on n1, sluice join on n2 and n3")
	text, err := c.Nodes[0].Sluice(ctx, "init", "-o", "json")
	if err != nil {
		return err
	}
	var first sluicev1.InitResponse
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &first); err != nil {
		return fmt.Errorf("sluice init: %w", err)
	}
	for _, n := range c.Nodes[1:] {
		if _, err := n.Sluice(ctx, "join", first.GetJoinAddress(), "--token", first.GetToken()); err != nil {
			return err
		}
	}
	return nil
}

// Populate makes the networks, services and workloads that the table is about,
// and returns once every node knows them and its kernel holds them.
func (c *Cluster) Populate(ctx context.Context) error {
	c.Progress("service web on 8080 with an endpoint on n2 and on n3; idle on 8082 with none; api not published")
	for _, args := range [][]string{
		{"network", "create", "blue"},
		{"network", "create", "green"},
		{"service", "create", "web", "--network", "blue", "--publish", "8080:80/tcp", "--publish", "8080:80/udp"},
		{"service", "create", "idle", "--publish", "8082:80/tcp", "--publish", "8082:80/udp"},
		{"service", "create", "api", "--network", "green"},
	} {
		if _, err := c.Nodes[0].Sluice(ctx, args...); err != nil {
			return err
		}
	}
	for _, w := range workloads() {
		if err := c.Run(ctx, c.Node(w.node), w.service, w.endpoint); err != nil {
			return err
		}
	}
	if err := c.Settle(ctx); err != nil {
		return err
	}
	for _, open := range []func(context.Context) error{c.endpoints, c.sandboxes} {
		if err := open(ctx); err != nil {
			return err
		}
	}
	return errors.Join(c.secondInterface(), c.holeInTheWall(), c.listen())
}

type workload struct{ node, service, endpoint string }

func workloads() []workload {
	return []workload{{"n2", "web", "web.2"}, {"n3", "web", "web.3"}, {"n3", "api", "api.3"}}
}

// secondInterface puts web.3 on the bridge of its node, as a container engine would.
func (c *Cluster) secondInterface() error {
	three := c.Endpoint("web.3")
	return three.Node.Plug(ownBridge, "to-web.3", three.Space, "eth1", BridgeClient4(), BridgeClient6())
}

// holeInTheWall makes the client try what no client should succeed with: routes to
// endpoints through their node.
func (c *Cluster) holeInTheWall() error {
	two := c.Endpoint("web.2")
	var errs []error
	for _, network := range []string{"ingress", "blue"} {
		for _, f := range []Family{IPv4, IPv6} {
			a := two.On(network, f)
			errs = append(errs, c.Client.Route(netip.PrefixFrom(a, a.BitLen()), two.Node.Addr(f)))
		}
	}
	return errors.Join(errs...)
}

// Run starts a workload with sluice run, as an operator does, and does not wait for it.
func (c *Cluster) Run(ctx context.Context, n *Node, service, name string) error {
	// The service came to life on n1; this node has to have heard of it.
	known := func() error { _, err := n.Service(ctx, service); return err }
	if err := eventually(ctx, n.Name+" knows service "+service, known); err != nil {
		return err
	}
	args := append([]string{"run", "--service", service, "--name", name, "--"}, c.Workload...)
	// Not ctx: it outlives this call, and ends in Close.
	cmd := n.Command(context.Background(), append(args, name)...)
	p, err := start(n.Space, "workload "+name, filepath.Join(c.Dir, name+".log"), cmd)
	if err != nil {
		return err
	}
	c.work = append(c.work, p)
	return nil
}

// Serve starts a workload in a namespace without sluice: what a path is compared with.
func (c *Cluster) Serve(where *space.Space, name string) error {
	p, err := start(where, "server "+name, filepath.Join(c.Dir, name+".log"), exec.Command(c.Workload[0], append(c.Workload[1:len(c.Workload):len(c.Workload)], name)...))
	if err != nil {
		return err
	}
	c.work = append(c.work, p)
	return nil
}

// Space makes one more namespace, which Close takes away.
func (c *Cluster) Space(name string) (*space.Space, error) { return c.newSpace(name) }

// Settle waits until every node knows all endpoints and the kernel of each is
// what its plan says.
func (c *Cluster) Settle(ctx context.Context) error {
	for _, n := range c.Nodes {
		err := eventually(ctx, n.Name+" has settled", func() error {
			for _, p := range c.processes() {
				if err := p.running(); err != nil {
					return fatal{err}
				}
			}
			for service, networks := range map[string]int{"web": 2, "api": 1} {
				if err := n.complete(ctx, service, networks); err != nil {
					return err
				}
			}
			return n.settled(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// AtRest waits until the kernel of each node is what its plan says.
func (c *Cluster) AtRest(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := eventually(ctx, n.Name+" is at rest", func() error { return n.settled(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// complete says which workloads of a service the node does not yet know with all
// their interfaces, or is nil.
func (n *Node) complete(ctx context.Context, service string, networks int) error {
	s, err := n.Service(ctx, service)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range s.GetEndpoints() {
		known[e.GetName()] = len(e.GetAttachments()) == networks
	}
	for _, w := range workloads() {
		if w.service == service && !known[w.endpoint] {
			return fmt.Errorf("%s does not know %s on %d networks yet", n.Name, w.endpoint, networks)
		}
	}
	return nil
}

// Endpoint is a workload of the cluster and the namespace it is in.
type Endpoint struct {
	*space.Space
	Name  string
	Node  *Node
	addrs map[string][]netip.Addr // by network
}

// On is the endpoint's address on a network; invalid where it has none.
func (e *Endpoint) On(network string, f Family) netip.Addr {
	for _, a := range e.addrs[network] {
		if a.Is4() == (f == IPv4) {
			return a
		}
	}
	return netip.Addr{}
}

// Endpoint returns an endpoint by name.
func (c *Cluster) Endpoint(name string) *Endpoint {
	for _, e := range c.Endpoints {
		if e.Name == name {
			return e
		}
	}
	panic("no endpoint " + name) // a mistake in a test, not something that happens
}

// endpoints opens the workloads' namespaces and learns their addresses.
func (c *Cluster) endpoints(ctx context.Context) error {
	for _, service := range []string{"web", "api"} {
		s, err := c.Nodes[0].Service(ctx, service)
		if err != nil {
			return err
		}
		for _, e := range s.GetEndpoints() {
			known, err := c.endpoint(ctx, e)
			if err != nil {
				return fmt.Errorf("endpoint %s: %w", e.GetName(), err)
			}
			c.Endpoints = append(c.Endpoints, known)
		}
	}
	return nil
}

func (c *Cluster) endpoint(ctx context.Context, e *sluicev1.Endpoint) (*Endpoint, error) {
	n := c.Node(e.GetNode())
	s, err := c.sandbox(ctx, n, plan.EndpointSandbox(e.GetId()))
	if err != nil {
		return nil, err
	}
	known := &Endpoint{Space: s, Name: e.GetName(), Node: n, addrs: map[string][]netip.Addr{}}
	for _, a := range e.GetAttachments() {
		for _, text := range a.GetAddresses() {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			known.addrs[a.GetNetwork()] = append(known.addrs[a.GetNetwork()], addr)
		}
	}
	return known, nil
}

// sandboxes opens the namespaces that the agents keep, so that a test can work in
// them while the agents stand still.
func (c *Cluster) sandboxes(ctx context.Context) error {
	var networks sluicev1.ListNetworksResponse
	if err := c.Nodes[0].message(ctx, &networks, "network", "ls"); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		var err error
		if n.Ingress, err = c.sandbox(ctx, n, plan.IngressSandbox); err != nil {
			return err
		}
		n.Network = map[string]*space.Space{}
		for _, network := range networks.GetNetworks() {
			s, err := c.sandbox(ctx, n, plan.NetworkSandbox(network.GetVni()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // no endpoint of it here
			}
			if err != nil {
				return err
			}
			n.Network[network.GetName()] = s
		}
	}
	return nil
}

// sandbox opens a node's sandbox until Close.
func (c *Cluster) sandbox(ctx context.Context, n *Node, name string) (*space.Space, error) {
	s, err := n.Sandbox(ctx, name)
	if err != nil {
		return nil, err
	}
	c.spaces = append(c.spaces, s)
	return s, nil
}

// listen starts the server "world" at the client.
func (c *Cluster) listen() error {
	var world *probe.Server
	err := c.Client.Do(func() (err error) {
		world, err = probe.Listen("world", World)
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- world.Run(ctx) }()
	c.world = func() error { cancel(); return <-done }
	return nil
}
