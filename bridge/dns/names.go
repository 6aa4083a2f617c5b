package dns

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// DefaultTTL is how long a client may keep one of our answers. It is short because a client
// that keeps an address keeps dialling it after the balancer has forgotten the endpoint.
const DefaultTTL = 5 * time.Second

// Names is everything that a Zone is made of.
type Names struct {
	TTL       time.Duration // of every answer, in whole seconds; 0: clients keep nothing
	Networks  []Network
	Services  []Service
	Endpoints []Endpoint
}

// Network is a network that askers and names are on.
type Network struct {
	ID       mesh.NetworkID
	Name     string         // the last part of name.network; empty: there is no such form
	Subnets  []netip.Prefix // whose reverse names nobody outside can know
	Internal bool           // no way out: by itself it lets no question out either
}

// Mode says what a service's name gives.
type Mode string

// The modes.
const (
	VIP   Mode = "vip"   // its virtual addresses; where it has none, as DNSRR does
	DNSRR Mode = "dnsrr" // the addresses of its ready endpoints, in changing order
)

// Service is a service as far as names go.
type Service struct {
	Name     string
	Stack    string // empty: it is in none
	Aliases  []Alias
	Mode     Mode
	Networks []mesh.NetworkID // where the name exists, although nobody may be ready there
	VIPs     []Addr
	Ports    []Port
	Shadowed []mesh.Shadow
}

// Endpoint is an endpoint as far as names go. Its name answers as long as it has an address;
// its service's name gives it only while it is ready.
type Endpoint struct {
	Name     string // empty: it is one of its service, and has no name of its own
	Service  string // with Stack the service that it belongs to; empty: none
	Stack    string
	Aliases  []Alias
	Addrs    []Addr
	Ready    bool // neither starting nor draining
	Shadowed []mesh.Shadow
}

// Alias is a further name. Several may bear the same: it gives the addresses of all.
type Alias struct {
	Name    string
	Network mesh.NetworkID // where it holds; empty: on every network of its owner
}

// Addr is an address on a network, of either family.
type Addr struct {
	Network mesh.NetworkID
	IP      netip.Addr
}

// Port is a port that SRV finds by its name and by its number.
type Port struct {
	Name   string // may be empty
	Number uint16
	Last   uint16 // of a range, each of whose numbers is found; 0: one port
	Proto  mesh.Proto
}

// Asker is who asks.
type Asker struct {
	Networks []mesh.NetworkID
	Stack    string
	// Everything is for the operator's listener on the host: it sees every network. Such an
	// asker should be LocalOnly too, or the node is an open resolver for its neighbours.
	Everything bool
	LocalOnly  bool // other names are refused instead of forwarded
	// KeepShort keeps A and AAAA questions for a name without a dot at home, answered with
	// nothing, so that the client goes on to its search list. Docker does this where the user
	// set ndots.
	KeepShort bool
}

// scope is what one question is about.
type scope struct {
	everything bool
	networks   []mesh.NetworkID
	asker      *Asker
	asked      string // the whole name, in lower case
}

func (a *Asker) scope(asked string) scope {
	return scope{everything: a.Everything, networks: a.Networks, asker: a, asked: asked}
}

func (s scope) has(id mesh.NetworkID) bool {
	return s.everything || slices.Contains(s.networks, id)
}
