package mesh

import (
	"net/netip"
	"slices"
)

// EndpointState says whether an endpoint may get connections.
type EndpointState string

// The states. An endpoint that is gone has no record.
const (
	Ready    EndpointState = "ready"
	Draining EndpointState = "draining" // keeps what it has, gets nothing new
)

// Endpoint is one workload's attachment. Its record has one writer: its node.
type Endpoint struct {
	ID       EndpointID
	Name     string
	Service  ServiceID
	Node     NodeID
	State    EndpointState
	Weight   int
	Attached []Attachment // sorted by network
	Fixed    []netip.Addr // asked for: on the network that each is in, no other address will do; sorted
	Left     []Freed      // had on some network, and has no longer; see Rest
	Joined   []Joined     // sorted by network; what is asked for beyond the service's wishes
}

// Joined is what an endpoint asks of one network. Where its service does not use the network,
// the endpoint is on it all the same, unless it asked for what is ByService.
type Joined struct {
	Network   NetworkID
	ByService bool    // the network was its service's: the endpoint is on it as long as it is that
	MAC       [6]byte // zero: made from the address
	Interface string  // the device's name in the endpoint's namespace; empty: made from the network
	Aliases   []string
	// Gateway decides which network the default route is on: the greatest has it; see Snapshot.Gateway.
	Gateway int
	Sysctls []InterfaceSysctl
}

// InterfaceSysctl is a setting of one interface: Key is below net/FAMILY/{conf,neigh}/INTERFACE.
type InterfaceSysctl struct {
	Family string // ipv4 or ipv6
	Table  string // conf or neigh
	Key    string // forwarding
	Value  string
}

// JoinedTo returns what the endpoint asks of a network.
func (e *Endpoint) JoinedTo(id NetworkID) (Joined, bool) {
	for _, j := range e.Joined {
		if j.Network == id {
			return j, true
		}
	}
	return Joined{}, false
}

// Attachment is an endpoint's interface on one network.
type Attachment struct {
	Network NetworkID
	V4, V6  netip.Addr
}

// On returns the endpoint's attachment to a network.
func (e *Endpoint) On(id NetworkID) (Attachment, bool) {
	for _, a := range e.Attached {
		if a.Network == id {
			return a, true
		}
	}
	return Attachment{}, false
}

func (e *Endpoint) clone() *Endpoint {
	c := *e
	c.Attached, c.Left, c.Joined = slices.Clone(e.Attached), slices.Clone(e.Left), slices.Clone(e.Joined)
	return &c
}

const weightLimit = 65535 // IPVS's

// Validate refuses an endpoint that cannot be built.
func (e *Endpoint) Validate() error {
	for _, id := range []string{string(e.ID), string(e.Service), string(e.Node)} {
		if err := validID(id); err != nil {
			return err
		}
	}
	if err := ValidateName("endpoint", e.Name); err != nil {
		return err
	}
	if e.Weight < 1 || e.Weight > weightLimit {
		return Refuse(BadValue, "use a weight from 1 to 65535", "endpoint %s has weight %d", e.Name, e.Weight)
	}
	if e.State != Ready && e.State != Draining {
		return Refuse(BadRecord, "update the node that wrote it", "endpoint %s has state %.20q", e.Name, string(e.State))
	}
	for i, a := range e.Attached {
		if i > 0 && a.Network <= e.Attached[i-1].Network {
			return Refuse(BadRecord, "update the node that wrote it", "endpoint %s has attachments that are not sorted by network, one each", e.Name)
		}
		if validID(string(a.Network)) != nil || !a.V4.Is4() || !a.V6.Is6() || !validUnicast(a.V4) || !validUnicast(a.V6) {
			return Refuse(BadRecord, "update the node that wrote it", "endpoint %s has addresses %.60q and %.60q", e.Name, a.V4, a.V6)
		}
	}
	if len(e.Left) > leftLimit {
		return Refuse(BadRecord, "update the node that wrote it", "endpoint %s left %d addresses, the limit is %d", e.Name, len(e.Left), leftLimit)
	}
	if err := e.validateJoined(); err != nil {
		return err
	}
	return e.validateFixed()
}
