package agent

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/bridge/dns"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// naming answers the questions of this node's endpoints, each by a server in the endpoint's
// namespace, and of operators. What is told is always of one snapshot, that which the kernel was
// last made equal to. Safe for concurrent use; nil tells nobody any.
type naming struct {
	ctx     context.Context // the agent's: a server outlives the round that begins it
	own     mesh.NodeID
	machine Machine // to listen, which any goroutine may
	changed func()  // what problems says is something else now
	log     *slog.Logger
	forward *dns.Forwarder
	tell    *dns.Resolver
	confs   resolvConfs

	mu       sync.Mutex
	snap     *mesh.Snapshot
	gone     map[mesh.NodeID]bool // whose endpoints the balancer does not use
	short    bool                 // the host's resolv.conf sets ndots
	servers  map[mesh.EndpointID]*nameServer
	operator *nameServer // nil where no operator asks
	unlinked error       // why not every resolv.conf is as it should be
}

// newNames begins to answer, by the names that the last agent knew: they need no round, for the
// kernel holds what that agent was told.
func newNames(ctx context.Context, cfg Config, c *cluster, m Machine, files resolvFiles) *naming {
	ours := []netip.AddrPort{} // not nil: an endpoint's server is not where the host would ask
	if cfg.DNS.IsValid() {
		ours = append(ours, cfg.DNS)
	}
	n := &naming{
		ctx: ctx, own: c.own.ID, machine: m, changed: c.wake, log: cfg.Log,
		forward: dns.NewForwarder(dns.ForwarderConfig{Dialer: &net.Dialer{}, Own: ours}),
		confs:   resolvConfs{resolvFiles: files, managed: managedConf(cfg.RunDir)}, servers: map[mesh.EndpointID]*nameServer{},
	}
	n.tell = dns.NewResolver(n.forward)
	n.heed(n.confs.now())
	if cfg.DNS.IsValid() {
		n.operator = n.serve("names at "+cfg.DNS.String(), dns.Asker{Everything: true, LocalOnly: true}, func() (net.PacketConn, net.Listener, error) { return listenAt(cfg.DNS) })
	}
	n.follow(c.snapshot(), nil, m.Path)
	return n
}

// follow tells the names of snap from now on, to the endpoints that this node has in it; those of
// nodes that are gone are not ready. It returns once every server that can answer does. The caller
// does not change gone afterwards.
func (n *naming) follow(snap *mesh.Snapshot, gone map[mesh.NodeID]bool, path func(sandbox string) string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if snap == n.snap && maps.Equal(gone, n.gone) {
		return
	}
	local := map[mesh.EndpointID]*mesh.Endpoint{}
	for _, e := range snap.Local(n.own) {
		local[e.ID] = e
	}
	first := n.snap == nil // links of an agent before may be of namespaces that are no more
	moved := n.end(func(id mesh.EndpointID) bool { return local[id] == nil }) || first
	if len(local) > 0 || n.operator != nil {
		n.tell.SetZone(dns.NewZone(dns.FromSnapshot(snap, n.own, gone)))
	} else {
		n.tell.SetZone(dns.NewZone(dns.Names{}))
	}
	n.snap, n.gone = snap, gone
	for _, id := range slices.Sorted(maps.Keys(local)) {
		if s := n.servers[id]; s != nil {
			s.server.SetAsker(n.asker(local[id]))
			continue
		}
		n.servers[id] = n.serveEndpoint(local[id])
		moved = true
	}
	if moved || n.unlinked != nil {
		n.unlinked = n.confs.link(local, path)
	}
}

// end ends the servers of the endpoints that are gone, and waits for them: the next endpoint
// in the same namespace needs their port.
func (n *naming) end(gone func(mesh.EndpointID) bool) (ended bool) {
	var ending []*nameServer
	for id, s := range n.servers {
		if gone(id) {
			s.cancel()
			ending = append(ending, s)
			delete(n.servers, id)
		}
	}
	for _, s := range ending {
		<-s.ended
	}
	return len(ending) > 0
}

func (n *naming) asker(e *mesh.Endpoint) dns.Asker {
	a := dns.AskerOf(n.snap, e)
	a.KeepShort = n.short
	return a
}

func (n *naming) serveEndpoint(e *mesh.Endpoint) *nameServer {
	sandbox, at := plan.EndpointSandbox(string(e.ID)), netip.AddrPortFrom(netip.MustParseAddr(dns.EndpointAddr), namesPort)
	listen := n.machine.ListenNames
	if tellsNames(n.snap.Service(e.Service)) {
		listen = n.machine.ListenNamesAside
	}
	return n.serve("endpoint "+e.Name, n.asker(e), func() (net.PacketConn, net.Listener, error) { return listen(sandbox, at) })
}

const namesPort = 53

// tellsNames tells whether the endpoints of a service are to be asked for names themselves: a
// server that binds all addresses would not start beside one of ours.
func tellsNames(s *mesh.Service) bool {
	return s != nil && slices.ContainsFunc(s.Publish, func(p mesh.PublishedPort) bool {
		return p.Target <= namesPort && namesPort <= max(p.Target, p.Last)
	})
}

// run follows the host's resolvers until ctx ends.
func (n *naming) run(ctx context.Context) error { return n.confs.follow(ctx, n.heed, n.log) }

// heed takes in what the host's resolv.conf says.
func (n *naming) heed(c dns.Conf) {
	if err := writeInPlace(n.confs.managed, dns.EndpointConf(c)); err != nil {
		n.log.Error("the endpoints' resolv.conf was not written", "err", err)
	}
	for _, addr := range n.forward.SetUpstreams(c.Upstreams) {
		n.log.Warn("the host's resolv.conf names this agent, which is not asked", "address", addr)
	}
	_, short := c.Ndots()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.short == short || n.snap == nil {
		n.short = short
		return
	}
	n.short = short
	for _, e := range n.snap.Local(n.own) {
		if s := n.servers[e.ID]; s != nil {
			s.server.SetAsker(n.asker(e))
		}
	}
}

// problems are the servers that do not answer.
func (n *naming) problems() []problem {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []problem
	add := func(object string, err error) {
		if err != nil {
			list = append(list, problem{problemKey: problemKey{object, namesReason(err)}, detail: "no names: " + err.Error()})
		}
	}
	for _, s := range n.servers {
		add(s.object, s.trouble())
	}
	if n.operator != nil {
		add(n.operator.object, n.operator.trouble())
	}
	add("resolv.conf", n.unlinked)
	return list
}

// close waits for all servers, which end with the agent's context.
func (n *naming) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.end(func(mesh.EndpointID) bool { return true })
	if n.operator != nil {
		n.operator.cancel()
		<-n.operator.ended
	}
	n.forward.Close()
}
