package mesh

import (
	"fmt"
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

// Uses returns the networks on which an endpoint of s has an interface: its own, the default bridge where
// it has none and publishes ports of its nodes' own, and the ingress network where it publishes
// a port on every node.
func (s *Service) Uses() []NetworkID {
	uses := s.Networks
	if len(uses) == 0 && slices.ContainsFunc(s.Publish, func(p PublishedPort) bool { return p.Mode == Hosted }) {
		uses = []NetworkID{DefaultBridge}
	}
	if slices.ContainsFunc(s.Publish, func(p PublishedPort) bool { return p.Mode != Hosted }) {
		uses = append([]NetworkID{IngressNetwork}, uses...)
	}
	return uses
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
	if err := s.validateNames(); err != nil {
		return err
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
	if !slices.IsSorted(s.Aliases) {
		slices.Sort(s.Aliases)
	}
}

// validateNames refuses names and virtual addresses that the service cannot have.
func (s *Service) validateNames() error {
	if err := ValidateAliases(s.Aliases); err != nil {
		return err
	}
	if s.Stack != "" {
		if err := ValidateName("stack", s.Stack); err != nil {
			return err
		}
	}
	if s.Mode != "" && s.Mode != VirtualIP && s.Mode != RoundRobinDNS {
		return Refuse(BadValue, "use vip or dnsrr", "service %s has endpoint mode %.20q", s.Name, string(s.Mode))
	}
	if len(s.Virtual) > networkLimit {
		return Refuse(BadRecord, "update the node that wrote it", "service %s has %d virtual addresses, the limit is %d", s.Name, len(s.Virtual), networkLimit)
	}
	for i, a := range s.Virtual {
		if validID(string(a.Network)) != nil || !a.V4.Is4() || !a.V6.Is6() || !validUnicast(a.V4) || !validUnicast(a.V6) || i > 0 && a.Network <= s.Virtual[i-1].Network {
			return Refuse(BadRecord, "update the node that wrote it", "service %s has virtual addresses %.60q and %.60q", s.Name, a.V4, a.V6)
		}
	}
	return nil
}
