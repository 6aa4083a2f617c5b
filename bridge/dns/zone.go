package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

// Zone is all names of the cluster at one moment. It never changes, so any number of
// goroutines may ask it; a newer one takes its place as a whole.
type Zone struct {
	ttl      uint32
	networks map[mesh.NetworkID]Network
	named    map[string]mesh.NetworkID // by lower-case name
	names    map[key][]bearer          // the best rank first
	reverse  map[netip.Addr][]pointer
}

// key is a name within a stack, both in lower case and without the final dot.
type key struct{ stack, name string }

// rank settles who is meant where several bear a name: the lowest alone, if the asker can
// see it.
type rank int

const (
	serviceName rank = iota
	serviceAlias
	endpointName
	endpointAlias
)

// bearer is one that bears a name.
type bearer struct {
	rank rank
	only mesh.NetworkID // an alias that holds on one network; empty: on all of host's
	host *host
}

// host is what a name stands for.
type host struct {
	name, stack string
	on          []mesh.NetworkID
	groups      []group // the addresses that the name gives
	targets     []*host // what SRV points at; none: at the name itself
	ports       []Port
	shadowed    []mesh.Shadow
}

// group is addresses on one network.
type group struct {
	network mesh.NetworkID
	v4, v6  []netip.Addr
}

// pointer is the name of an address.
type pointer struct {
	rank    rank
	network mesh.NetworkID
	host    *host
}

// NewZone builds the zone of n. It keeps nothing of n's slices. A name that is no domain name
// is left out: it could not be asked for.
func NewZone(n Names) *Zone {
	z := &Zone{
		ttl:      uint32(max(0, n.TTL) / time.Second),
		networks: make(map[mesh.NetworkID]Network, len(n.Networks)),
		named:    make(map[string]mesh.NetworkID, len(n.Networks)),
		names:    make(map[key][]bearer, 2*len(n.Services)+len(n.Endpoints)),
		reverse:  make(map[netip.Addr][]pointer, len(n.Services)+len(n.Endpoints)),
	}
	for _, network := range n.Networks {
		network.Subnets = slices.Clone(network.Subnets)
		z.networks[network.ID] = network
		if network.Name != "" {
			z.named[lower(network.Name)] = network.ID
		}
	}
	members := map[key][]*host{}
	ready := map[*host]bool{}
	for _, e := range n.Endpoints {
		h := z.addEndpoint(e)
		ready[h] = e.Ready
		k := key{lower(e.Stack), lower(e.Service)}
		members[k] = append(members[k], h)
	}
	for _, s := range n.Services {
		z.addService(s, members[key{lower(s.Stack), lower(s.Name)}], ready)
	}
	for _, bearers := range z.names {
		slices.SortStableFunc(bearers, func(a, b bearer) int { return cmp.Compare(a.rank, b.rank) })
	}
	for _, pointers := range z.reverse {
		slices.SortStableFunc(pointers, func(a, b pointer) int { return cmp.Compare(a.rank, b.rank) })
	}
	return z
}

func (z *Zone) addEndpoint(e Endpoint) *host {
	h := &host{name: e.Name, stack: e.Stack, shadowed: copied(e.Shadowed)}
	h.give(e.Addrs)
	z.bear(h, e.Name, "", endpointName)
	for _, alias := range e.Aliases {
		z.bear(h, alias.Name, alias.Network, endpointAlias)
	}
	if e.Name != "" {
		z.point(h, e.Addrs, endpointName)
	}
	return h
}

func (z *Zone) addService(s Service, members []*host, ready map[*host]bool) {
	tasks := &host{name: s.Name, stack: s.Stack, ports: slices.Clone(s.Ports), shadowed: copied(s.Shadowed)}
	tasks.exist(s.Networks...)
	for _, m := range members {
		tasks.exist(m.on...)
		if ready[m] {
			if m.name != "" {
				tasks.targets = append(tasks.targets, m)
			}
			tasks.join(m.groups)
		}
	}
	h := tasks
	if s.Mode != DNSRR && len(s.VIPs) > 0 {
		h = tasks.behind(s.VIPs)
		z.point(h, s.VIPs, serviceName)
	}
	z.bear(h, s.Name, "", serviceName)
	z.bear(tasks, "tasks."+s.Name, "", serviceName)
	for _, alias := range s.Aliases {
		z.bear(h, alias.Name, alias.Network, serviceAlias)
		z.bear(tasks, "tasks."+alias.Name, alias.Network, serviceAlias)
	}
}

func copied(shadowed []mesh.Shadow) []mesh.Shadow {
	out := slices.Clone(shadowed)
	for i := range out {
		out[i].On = slices.Clone(out[i].On)
	}
	return out
}

// behind is what a service's name stands for where it has virtual addresses. A network without
// one, as a bridge is, gives the endpoints themselves. SRV points at the name in any case.
func (h *host) behind(vips []Addr) *host {
	front := &host{name: h.name, stack: h.stack, ports: h.ports, shadowed: h.shadowed}
	front.exist(h.on...)
	front.give(vips)
	virtual := len(front.groups)
	for _, g := range h.groups {
		if !slices.ContainsFunc(front.groups[:virtual], func(v group) bool { return v.network == g.network }) {
			front.join([]group{g})
		}
	}
	return front
}

// bear lets h answer to name in its own stack.
func (z *Zone) bear(h *host, name string, only mesh.NetworkID, r rank) {
	if _, ok := dns.IsDomainName(name); !ok || name == "" || strings.ContainsAny(name, `\"`) {
		return
	}
	k := key{lower(h.stack), lower(strings.TrimSuffix(name, "."))}
	z.names[k] = append(z.names[k], bearer{rank: r, only: only, host: h})
}

func (z *Zone) point(h *host, addrs []Addr, r rank) {
	for _, a := range addrs {
		if ip := a.IP.Unmap().WithZone(""); ip.IsValid() {
			z.reverse[ip] = append(z.reverse[ip], pointer{rank: r, network: a.Network, host: h})
		}
	}
}

// exist notes that h's names exist on the networks, with or without an address.
func (h *host) exist(networks ...mesh.NetworkID) {
	for _, id := range networks {
		if !slices.Contains(h.on, id) {
			h.on = append(h.on, id)
		}
	}
}

// give adds addresses to what h's names give.
func (h *host) give(addrs []Addr) {
	for _, a := range addrs {
		g := h.group(a.Network)
		switch ip := a.IP.Unmap().WithZone(""); {
		case ip.Is4() && !slices.Contains(g.v4, ip):
			g.v4 = append(g.v4, ip)
		case ip.Is6() && !slices.Contains(g.v6, ip):
			g.v6 = append(g.v6, ip)
		}
	}
}

// join adds another's addresses to what h's names give. No two endpoints share one.
func (h *host) join(groups []group) {
	for _, other := range groups {
		g := h.group(other.network)
		g.v4 = append(g.v4, other.v4...)
		g.v6 = append(g.v6, other.v6...)
	}
}

func (h *host) group(id mesh.NetworkID) *group {
	h.exist(id)
	for i := range h.groups {
		if h.groups[i].network == id {
			return &h.groups[i]
		}
	}
	h.groups = append(h.groups, group{network: id})
	return &h.groups[len(h.groups)-1]
}

// MayForward says whether an asker is on a network with a way out. One that is on internal
// networks only must not cause a question outside: its name could carry data there.
func (z *Zone) MayForward(a *Asker) bool {
	if a.Everything {
		return !a.LocalOnly
	}
	if a.LocalOnly {
		return false
	}
	return slices.ContainsFunc(a.Networks, func(id mesh.NetworkID) bool {
		network, known := z.networks[id]
		return known && !network.Internal
	})
}

// lower is the lower case of ASCII alone, which is all that DNS folds (RFC 4343).
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; c >= 'A' && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
