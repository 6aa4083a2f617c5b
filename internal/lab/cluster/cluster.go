// Package cluster builds a whole cluster on one machine: hosts in network
// namespaces on one link, an agent in each of three, workloads, clients.
//
//	          lan (a bridge in a namespace of its own)        192.168.50.0/24, fd50::/64
//	n1 .11      n2 .12       n3 .13          client .100
//	agent       agent        agent           server "world"
//	br7 .1      br7 .1       br7 .1                           172.31.0.0/24, fd31::/64 on each
//	 b1 .2                    web.3 .2
//	            web.2        web.3, api.3                     services web and api
//
// Nothing of it is in the namespace it is started from, and Close leaves nothing.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// Host is a machine on the link.
type Host struct {
	*space.Space
	Name   string
	V4, V6 netip.Addr
}

// Addr is the host's address of one family.
func (h *Host) Addr(f Family) netip.Addr {
	if f == IPv4 {
		return h.V4
	}
	return h.V6
}

// Family is an address family.
type Family string

// The two families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Config says which programs make the cluster.
type Config struct {
	Sluice   string   // path of the program under test
	Balancer string   // of every agent, as --balancer takes it; "": auto
	Firewall string   // of every agent, as --firewall takes it; "": open
	Lock     bool     // every agent is started with --lock
	Workload []string // command that serves: probe.Listen and Run, its name as one more argument
	Progress func(format string, args ...any)
	Prepared func(ctx context.Context, c *Cluster) error // called before an agent is started; may be nil
	// Unit is the systemd service that is the agent of n1: n1 is then this machine itself, in
	// the namespace that Start is called in. Empty: n1 is as the others.
	Unit string
	// ByRoute lets the agents find their address by the default route, and follow it.
	ByRoute bool
	// Underlay is the family of the address that the agents are told to have; "": IPv4.
	Underlay Family
	// Count is how many nodes there are; 0: three.
	Count int
}

// Cluster is three nodes and what is around them. Its methods are called by one goroutine at a time.
type Cluster struct {
	Config
	Dir       string
	Client    Host
	Nodes     []*Node
	Bridged   Host        // b1, on the bridge of n1
	Endpoints []*Endpoint // sorted by name; after Populate

	lan    *space.Space
	spaces []*space.Space  // all that Close closes
	before map[string]bool // devices that were there before: not ours to find left over
	work   []*process
	world  func() error // stops the server in the client's namespace
}

// Start builds the link, the hosts and the agents, and joins the nodes to one
// cluster. Where it fails it leaves nothing and says what the agents said last.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	prepared := func(c *Cluster, ctx context.Context) error {
		if config.Prepared == nil {
			return nil
		}
		return config.Prepared(ctx, c)
	}
	return build(ctx, config, (*Cluster).programs, (*Cluster).link, (*Cluster).hosts, (*Cluster).bridges, prepared, (*Cluster).agents, (*Cluster).join)
}

// Machines builds the link and the hosts alone: no agent runs, nor any other program.
func Machines(ctx context.Context, config Config) (*Cluster, error) {
	return build(ctx, config, (*Cluster).link, (*Cluster).hosts)
}

func build(ctx context.Context, config Config, steps ...func(*Cluster, context.Context) error) (*Cluster, error) {
	before, err := ownLinks()
	if err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	dir, err := os.MkdirTemp("", "sluice-lab-")
	if err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	c := &Cluster{Config: config, Dir: dir, before: before}
	for _, step := range steps {
		if err := step(c, ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("start lab: %w\n%s", err, c.Logs()), c.Close())
		}
	}
	return c, nil
}

// Node returns a node by name.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	panic("no node " + name) // a mistake in a test, not something that happens
}

// programs copies the programs to the cluster's own directory. In a VM whose time is
// instructions its root comes from outside, and while a page of a program is
// waited for, the clock jumps from one time limit to the next.
func (c *Cluster) programs(context.Context) error {
	c.Workload = slices.Clone(c.Workload)
	for _, path := range []*string{&c.Sluice, &c.Workload[0]} {
		program, err := os.ReadFile(*path)
		if err != nil {
			return fmt.Errorf("copy program: %w", err)
		}
		*path = filepath.Join(c.Dir, filepath.Base(*path))
		if err := os.WriteFile(*path, program, 0o755); err != nil {
			return fmt.Errorf("copy program: %w", err)
		}
	}
	return nil
}

// link makes the one link that all hosts are on, with a router that forwards nothing.
func (c *Cluster) link(context.Context) error {
	var err error
	if c.lan, err = c.newSpace("lan"); err != nil {
		return err
	}
	return c.lan.Bridge("lan", c.underlay4(1), c.underlay6(1))
}

func (c *Cluster) underlay4(last byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 50, last}), 24)
}

// underlay6 has the decimal digits of the IPv4 address: .100 is fd50::100.
func (c *Cluster) underlay6(last byte) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf("fd50::%d/64", last))
}

func (c *Cluster) newSpace(name string) (*space.Space, error) {
	path := filepath.Join(c.Dir, "netns")
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make namespace: %w", err)
	}
	s, err := space.New(filepath.Join(path, name))
	if err != nil {
		return nil, err
	}
	c.spaces = append(c.spaces, s)
	return s, nil
}

func (c *Cluster) host(name string, last byte) (Host, error) {
	s, err := c.newSpace(name)
	if err != nil {
		return Host{}, err
	}
	return c.plug(s, name, last)
}

// plug puts a namespace on the link.
func (c *Cluster) plug(s *space.Space, name string, last byte) (Host, error) {
	four, six := c.underlay4(last), c.underlay6(last)
	if err := c.lan.Plug("lan", "to-"+name, s, "eth0", four, six); err != nil {
		return Host{}, err
	}
	err := errors.Join(
		s.Route(netip.MustParsePrefix("0.0.0.0/0"), c.underlay4(1).Addr()),
		s.Route(netip.MustParsePrefix("::/0"), c.underlay6(1).Addr()),
	)
	return Host{Space: s, Name: name, V4: four.Addr(), V6: six.Addr()}, err
}

func (c *Cluster) hosts(context.Context) error {
	c.Progress("nodes and a client on one link")
	for i, name := range []string{"n1", "n2", "n3"}[:cmp.Or(c.Count, 3)] {
		make := c.host
		if i == 0 && c.Unit != "" {
			make = c.thisMachine
		}
		h, err := make(name, byte(11+i))
		if err != nil {
			return err
		}
		c.Nodes = append(c.Nodes, &Node{Host: h, Dir: filepath.Join(c.Dir, name), sluice: c.Sluice, balancer: c.Balancer, firewall: c.Firewall, lock: c.Lock, byRoute: c.ByRoute, underlay: cmp.Or(c.Underlay, IPv4)})
	}
	c.Nodes[0].unit = c.Unit
	var err error
	c.Client, err = c.host("client", 100)
	return err
}

// agents starts one agent on each node.
func (c *Cluster) agents(ctx context.Context) error {
	c.Progress("an agent on each node")
	for _, n := range c.Nodes {
		if err := n.startAgent(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Pause stops all agents where they stand: nothing is repaired until Resume.
func (c *Cluster) Pause() error { return c.signal(syscall.SIGSTOP) }

// Resume lets the agents go on.
func (c *Cluster) Resume() error { return c.signal(syscall.SIGCONT) }

func (c *Cluster) signal(s syscall.Signal) error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.agent.signal(s))
	}
	return errors.Join(errs...)
}

// Logs are the last words of every process.
func (c *Cluster) Logs() string {
	var text strings.Builder
	for _, p := range c.processes() {
		fmt.Fprintf(&text, "--- %s (%s)\n%s\n", p.name, p.log, p.tail())
	}
	return text.String()
}

func (c *Cluster) processes() []*process {
	list := append([]*process(nil), c.work...)
	for _, n := range c.Nodes {
		if n.agent != nil {
			list = append(list, n.agent)
		}
	}
	return list
}
