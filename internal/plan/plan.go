// Package plan holds what one node's kernel should hold, as plain values.
//
//	bridge, overlay, ingress --Compile--> plan.Plan --Apply--> internal/kernel
//
// A Plan is the common language of golden files, "sluice plan", logs and the
// kernel package: its text form (text.go) is what a person reads and what tests
// compare. Nothing here knows a service, and nothing here touches the machine.
//
// Every object is a comparable value identified by its key within its sandbox;
// two objects with the same key and different values differ by one change.
package plan

import (
	"net/netip"
	"time"
)

// Plan is everything one node's kernel should hold, and what had to be left out.
type Plan struct {
	Sandboxes []*Sandbox // sorted by Sort: the host last
	Left      []Left     // what could not be expressed, with the reason

	byName map[string]*Sandbox // for Sandbox
}

// Sandbox is one network namespace: the host's own, one that the agent makes,
// or an endpoint's (made by whoever started the workload, pinned by the agent).
type Sandbox struct {
	Name     string
	Kind     Kind
	Links    []Link
	Addrs    []Addr
	Routes   []Route
	Rules    []Rule // of an endpoint alone
	Neighs   []Neigh
	FDB      []FDBEntry
	Sysctls  []Sysctl
	Tables   []*Table
	Lock     *Table // of the host alone; nil: none
	Virtual  []VirtualServer
	Backends []Backend
	Flows    []Flow   // where the sandbox balances by conntrack, and in the host
	Zones    []Zone   // where flows are told apart by the node that they came by
	Timeouts Timeouts // of IPVS; the zero value where the sandbox has none
	Passages []Passage
	User     User
}

// Kind says whose namespace a sandbox is and so what of it may be changed.
type Kind string

// The kinds of sandbox, in the order in which a plan is applied: an endpoint gets
// its addresses when the networks that it would speak to are closed and ready.
const (
	KindNetwork  Kind = "network"  // one overlay network's; wholly ours
	KindIngress  Kind = "ingress"  // the load balancer; wholly ours
	KindEndpoint Kind = "endpoint" // a workload's: only links, addresses and routes that are ours
	KindHost     Kind = "host"     // where the agent runs: only what carries our mark
)

// LinkKind is the kernel's name for a kind of device.
type LinkKind string

// The kinds of device that a plan can ask for.
const (
	LinkVeth  LinkKind = "veth"
	LinkVXLAN LinkKind = "vxlan"
	// LinkBridge is a bridge. It learns no multicast groups and filters nothing by itself, but the
	// firewall of its namespace may be asked, as the machine is set (br_netfilter).
	LinkBridge LinkKind = "bridge"
)

// Link is a network device. Its key is Name. Both ends of a veth pair stand in
// the plan, each naming the other; whichever is met first makes the pair.
type Link struct {
	Name  string
	Kind  LinkKind
	MAC   MAC // zero: the kernel chooses
	MTU   int // bytes, without the Ethernet header
	Peer  Peer
	VXLAN VXLAN
	// Master is the bridge in the same sandbox that the device is a port of.
	Master string
	// Isolated ports of a bridge do not reach each other, only the bridge itself.
	Isolated bool
	// Announced: the device's addresses are told to its neighbours when it gets them, by
	// gratuitous ARP and unsolicited neighbour advertisements.
	Announced bool
}

// Peer is the other end of a veth pair. MAC is what that end's own Link says: the
// device has it from birth, so that nobody who names new devices gives it another.
type Peer struct {
	Sandbox, Link string
	MAC           MAC
}

// VXLAN is the part of a Link that only a tunnel end has. The device is made in
// the host sandbox, so that outer packets use the host's stack, and then moved.
type VXLAN struct {
	VNI   uint32
	Local netip.Addr // outer source address, always explicit
	Port  uint16     // UDP port it listens on
}

// Addr is an address on a device. Its key is (Link, Prefix).
type Addr struct {
	Link   string
	Prefix netip.Prefix
}

// RouteKind says what a route does with a packet.
type RouteKind string

// The kinds of route. A RouteLocal entry is in the local table, all others in main where they name none.
const (
	RouteVia         RouteKind = "via"         // to Via on Link, which need not be on-link by address
	RouteDev         RouteKind = "dev"         // Dst is directly on Link
	RouteUnreachable RouteKind = "unreachable" // refuse at once
	RouteLocal       RouteKind = "local"       // ours, as seen from Link
)

// Route is one entry of a routing table. Its key is (Table, Dst), and of a RouteLocal one
// (RouteLocal, Link, Dst).
type Route struct {
	Kind  RouteKind
	Dst   netip.Prefix
	Via   netip.Addr
	Link  string
	Table uint32 // an OwnTable; 0: the one that its kind is in
}

// Neigh is a permanent neighbour entry. Its key is (Link, IP).
type Neigh struct {
	Link string
	IP   netip.Addr
	MAC  MAC
}

// FDBEntry says to which tunnel end a VXLAN device sends frames for MAC.
// Its key is (Link, MAC).
type FDBEntry struct {
	Link string
	MAC  MAC
	Dst  netip.Addr // the peer node's underlay address
	VNI  uint32     // the peer end's VNI, which need not be the device's own
	Port uint16
}

// Sysctl is a setting below /proc/sys, key with slashes: net/ipv4/ip_forward.
// One element of the key may be "*": every interface that is there now. If
// If is not empty, the setting is changed only where its present value is If.
type Sysctl struct{ Key, Value, If string }

// WithIPv6 lets a device of ours have IPv6 addresses where the namespace it is in
// has IPv6 switched off. link may be "*".
func WithIPv6(link string) Sysctl {
	return Sysctl{Key: "net/ipv6/conf/" + link + "/disable_ipv6", Value: "0"}
}

// LocalNet keeps packets to 127.0.0.0/8 that come by a device of ours out, as the kernel does by
// itself: where they are let in, its Value is "1", and when they no longer are it is told so.
func LocalNet(link string) Sysctl {
	return Sysctl{Key: "net/ipv4/conf/" + link + "/route_localnet", Value: "0"}
}

// LetLocalIn turns that round for a device that LocalNet was said of, in both families: what a
// process here dialled at a loopback address is answered by it. IPv6 has no such switch; there the
// address is local on the device too. Once is enough.
func (s *Sandbox) LetLocalIn(link string) {
	for i := range s.Sysctls {
		if s.Sysctls[i] == LocalNet(link) {
			s.Sysctls[i].Value = "1"
			s.Routes = append(s.Routes, Route{Kind: RouteLocal, Dst: netip.PrefixFrom(netip.IPv6Loopback(), 128), Link: link})
			return
		}
	}
}

// Dialled is what a client's packet is addressed to when it comes to a balancer.
type Dialled struct {
	Proto string // tcp, udp or sctp
	At    netip.AddrPort
}

// VirtualServer is one IPVS service, keyed by firewall mark or, where Mark is 0, by what is
// dialled: the kernel does not translate the port of a persistent one that is keyed by mark.
// Its key is (Mark, Dialled, Family).
type VirtualServer struct {
	Mark      uint32
	Dialled   Dialled
	Family    Family
	Scheduler string // the kernel's name: rr, wrr, lc, …
	// Flags are the scheduler's, by the names of ipvsadm: "" or FlagFallback. An observed
	// server may have others, joined by commas.
	Flags string
	// Persistent is how long a client (one address) is kept at its backend, whole seconds; 0: not at all.
	Persistent time.Duration
}

// FlagFallback is the flag with which sh and mh give another backend the new connections of
// one whose weight is 0; without, they would be refused.
func FlagFallback(scheduler string) string { return scheduler + "-fallback" }

// Ordered tells whether the choice of the server's scheduler depends on the order of its
// backends: for those the kernel is to have them in the plan's order.
func (v VirtualServer) Ordered() bool { return v.Scheduler == "sh" || v.Scheduler == "mh" }

// Backend is an endpoint as a balancer sees it. Its key is its server's Mark and Dialled,
// Addr and Port; the address family is that of Addr. Weight 0 gets no new connection.
type Backend struct {
	Mark    uint32
	Dialled Dialled
	Addr    netip.Addr
	Port    uint16
	Weight  int
}

// Timeouts are IPVS's idle limits, whole seconds.
type Timeouts struct{ TCP, TCPFin, UDP time.Duration }

// Family is an address family.
type Family string

// The two families. Every type above carries either.
const (
	IPv4 Family = "ip"
	IPv6 Family = "ip6"
)

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Suffix ends the names of sets that there is one of for each family.
func Suffix(a netip.Addr) string {
	if a.Is4() {
		return "4"
	}
	return "6"
}

// Reason is why an object is not programmed. Codes are stable: status, CLI and
// API show them unchanged.
type Reason string

// The reasons that compilers and the kernel package give.
const (
	NoReadyEndpoint Reason = "NoReadyEndpoint" // published, nothing to send to: connections are refused
	NameTaken       Reason = "NameTaken"       // an older claim holds the name
	NameShadows     Reason = "NameShadows"     // an older name is written alike
	PortTaken       Reason = "PortTaken"       // an older claim holds the published port
	PortHeld        Reason = "PortHeld"        // a process of this host, or another program's rule, has the published port
	NotSettled      Reason = "NotSettled"      // an address, slot or block is not yet allocated
	NodeUnknown     Reason = "NodeUnknown"     // an endpoint's node has no record (yet)
	NodeGone        Reason = "NodeGone"        // neither agent nor kernel of a node answers: its endpoints are left out
	AddressClash    Reason = "AddressClash"    // the uplink range has no room for one more published address
	FeatureMissing  Reason = "FeatureMissing"  // the kernel cannot do it
	SandboxGone     Reason = "SandboxGone"     // the namespace is no longer there
	KernelRefused   Reason = "KernelRefused"   // the kernel said no; the error has its words
)

// Left is one object that is not in the plan, or not as wished.
type Left struct {
	Object string // "service web port tcp/8080"
	Reason Reason
	Detail string // one sentence for the operator
}

// Sandbox returns the sandbox of that name, making it at first use.
func (p *Plan) Sandbox(name string, kind Kind) *Sandbox {
	if p.byName == nil || len(p.byName) != len(p.Sandboxes) { // the first, or the plan was not made by this method alone
		p.byName = make(map[string]*Sandbox, len(p.Sandboxes))
		for _, s := range p.Sandboxes {
			p.byName[s.Name] = s
		}
	}
	s := p.byName[name]
	if s == nil {
		s = &Sandbox{Name: name, Kind: kind}
		p.Sandboxes = append(p.Sandboxes, s)
		p.byName[name] = s
	}
	return s
}

// Host returns the host's sandbox.
func (p *Plan) Host() *Sandbox { return p.Sandbox(HostSandbox, KindHost) }

// Leave names an object that is left out, or not as wished.
func (p *Plan) Leave(reason Reason, object, detail string) {
	p.Left = append(p.Left, Left{Object: object, Reason: reason, Detail: detail})
}
