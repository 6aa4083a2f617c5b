package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Service is what an operator publishes: a name, the networks its endpoints are
// on, and the ports that answer on every node.
type Service struct {
	ID        ServiceID
	Name      string
	Networks  []NetworkID // sorted; not the ingress network, which a publication implies
	Publish   []PublishedPort
	Scheduler Scheduler
	// Affinity is for how long after its last new connection a client comes to the same
	// endpoint again, by one node and published port; 0: each connection is drawn for itself.
	Affinity time.Duration

	Aliases []string     // further names of the service, sorted
	Stack   string       // what a short name belongs to: its own stack's is found first; empty: none
	Mode    EndpointMode // how its name is answered on an overlay
	// Virtual are its addresses on overlays other than the ingress network, sorted; what was
	// free when it was written. What it holds is Snapshot.Virtual.
	Virtual []Attachment
}

// EndpointMode says what the name of a service is answered with.
type EndpointMode string

// The modes. On a bridge a name is always answered with the endpoints of the asker's node.
const (
	VirtualIP     EndpointMode = "vip"   // its virtual address; the zero value of records that know no mode
	RoundRobinDNS EndpointMode = "dnsrr" // all its ready endpoints
)

// Proto is a transport protocol.
type Proto string

// The protocols that can be published.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	SCTP Proto = "sctp"
)

// Scheduler names how a balancer picks an endpoint.
type Scheduler string

// The schedulers, by the kernel's names.
const (
	RoundRobin         Scheduler = "rr"
	WeightedRoundRobin Scheduler = "wrr"
	LeastConn          Scheduler = "lc"
	WeightedLeastConn  Scheduler = "wlc"
	SourceHash         Scheduler = "sh"
	Maglev             Scheduler = "mh"
)

// Schedulers lists what Validate accepts.
func Schedulers() []Scheduler {
	return []Scheduler{RoundRobin, WeightedRoundRobin, LeastConn, WeightedLeastConn, SourceHash, Maglev}
}

// PublishMode says which nodes answer on a published port.
type PublishMode string

// The modes.
const (
	Meshed PublishMode = ""     // all, for the endpoints of all: "ingress"
	Hosted PublishMode = "host" // those that have an endpoint of the service, for that one
)

// Sources are prefixes in their canonical text, sorted, joined by commas; empty: everybody.
// It is text so that a PublishedPort can be compared.
type Sources string

// PublishedPort is one port that every node answers on, or a range of ports that a node
// answers on for its own endpoint.
type PublishedPort struct {
	Addr      netip.Addr // only on this local address; the zero value: on all
	Proto     Proto
	Published uint16
	Target    uint16 // the endpoint's port
	Mode      PublishMode
	Last      uint16  // Hosted only: the last port of a range, which keeps its numbers (Published equals Target); 0: one port
	Sources   Sources // who may dial it
}

// String is the SPEC form: [ADDR:]PUBLISHED:TARGET/PROTO.
func (p PublishedPort) String() string {
	text := fmt.Sprintf("%d:%d/%s", p.Published, p.Target, p.Proto)
	switch {
	case !p.Addr.IsValid():
		return text
	case p.Addr.Is6():
		return "[" + p.Addr.String() + "]:" + text
	default:
		return p.Addr.String() + ":" + text
	}
}

// Front is what a client dials: "tcp/8080" or "192.0.2.1 tcp/8080".
func (p PublishedPort) Front() string {
	front := fmt.Sprintf("%s/%d", p.Proto, p.Published)
	if p.Addr.IsValid() {
		front = p.Addr.String() + " " + front
	}
	return front
}

// Overlaps tells whether one packet could be meant for both.
func (p PublishedPort) Overlaps(q PublishedPort) bool {
	return p.Proto == q.Proto && p.Published == q.Published &&
		(!p.Addr.IsValid() || !q.Addr.IsValid() || p.Addr == q.Addr)
}

func comparePublished(a, b PublishedPort) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Published, b.Published), cmp.Compare(a.Target, b.Target))
}

// Uses returns the networks on which an endpoint of s has an interface.
func (s *Service) Uses() []NetworkID {
	if len(s.Publish) == 0 {
		return s.Networks
	}
	return append([]NetworkID{IngressNetwork}, s.Networks...)
}

const (
	publishLimit = 4096
	networkLimit = 64
)

// Validate refuses a service that cannot be built, and puts its lists in order. One that
// is in order is only read: a service in a Snapshot may be validated again.
func (s *Service) Validate() error {
	s.order()
	if err := validID(string(s.ID)); err != nil {
		return err
	}
	if err := ValidateName("service", s.Name); err != nil {
		return err
	}
	if !slices.Contains(Schedulers(), s.Scheduler) {
		return Refuse(BadValue, fmt.Sprintf("use one of %v", Schedulers()), "scheduler %.20q is not known", string(s.Scheduler))
	}
	if err := ValidateAffinity(s.Affinity); err != nil {
		return err
	}
	if len(s.Networks) > networkLimit {
		return Refuse(BadValue, fmt.Sprintf("use at most %d networks per service", networkLimit), "service %s is on %d networks", s.Name, len(s.Networks))
	}
	for _, id := range s.Networks {
		if err := validID(string(id)); err != nil {
			return err
		}
		if id == IngressNetwork {
			return Refuse(BadValue, "publish a port instead: that puts the service on it", "service %s names the ingress network", s.Name)
		}
	}
	return s.validatePublish()
}

func (s *Service) order() {
	ascending := func(ids []NetworkID) bool {
		for i := range ids[min(1, len(ids)):] {
			if ids[i] >= ids[i+1] {
				return false
			}
		}
		return true
	}
	if !ascending(s.Networks) {
		slices.Sort(s.Networks)
		s.Networks = slices.Compact(s.Networks)
	}
	if !slices.IsSortedFunc(s.Publish, comparePublished) {
		slices.SortFunc(s.Publish, comparePublished)
	}
}

func (s *Service) validatePublish() error {
	if len(s.Publish) > publishLimit {
		return Refuse(BadPublish, fmt.Sprintf("publish at most %d ports per service", publishLimit), "service %s publishes %d ports", s.Name, len(s.Publish))
	}
	fronts := map[PublishedPort]bool{}
	for _, p := range s.Publish {
		if err := p.validate(); err != nil {
			return err
		}
		front := PublishedPort{Addr: p.Addr, Proto: p.Proto, Published: p.Published}
		anywhere := PublishedPort{Proto: p.Proto, Published: p.Published}
		// The order puts publications on all addresses first.
		if fronts[front] || fronts[anywhere] {
			return Refuse(PortTaken, "name each port once", "service %s publishes %s twice", s.Name, p.Front())
		}
		fronts[front] = true
	}
	return nil
}

func (p PublishedPort) validate() error {
	if p.Proto != TCP && p.Proto != UDP && p.Proto != SCTP {
		return Refuse(BadPublish, "use tcp, udp or sctp", "protocol %.20q is not known", string(p.Proto))
	}
	if p.Published == 0 || p.Target == 0 {
		return Refuse(BadPublish, "use ports from 1 to 65535", "%s has port 0", p)
	}
	if p.Addr.IsValid() && !publishable(p.Addr) {
		return Refuse(BadAddress, "give one unicast address of the nodes", "%.60q is not an address to publish on", p.Addr)
	}
	return nil
}

// publishable leaves loopback in: a port may be for the node itself. A zone is any text, which
// rules have no place for.
func publishable(a netip.Addr) bool {
	return a.IsLoopback() && !a.Is4In6() && a.Zone() == "" || validUnicast(a)
}
