package mesh

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// PublishMode says which nodes answer on a published port.
type PublishMode string

// The modes.
const (
	Meshed PublishMode = ""     // all, for the endpoints of all: "ingress"
	Hosted PublishMode = "host" // those that have an endpoint of the service, for that one
)

// PublishedPort is one port that every node answers on, or a port or a range of ports that a
// node answers on for its own endpoint.
type PublishedPort struct {
	Addr      netip.Addr // only on this local address; the zero value: on all
	Proto     Proto
	Published uint16
	Target    uint16 // the endpoint's port
	Mode      PublishMode
	Last      uint16  // Hosted only: the last port of a range, which keeps its numbers (Published equals Target); 0: one port
	Sources   Sources // who may dial it
}

// End is the last port that a client can dial: Last, or Published where it is one port.
func (p PublishedPort) End() uint16 { return max(p.Published, p.Last) }

// String is the SPEC form, which ParsePublish reads:
// [ADDR:]PUBLISHED[-END]:TARGET[-END]/PROTO[,mode=host][,source=CIDR]...
func (p PublishedPort) String() string {
	var b strings.Builder
	switch {
	case !p.Addr.IsValid():
	case p.Addr.Is6():
		b.WriteString("[" + p.Addr.String() + "]:")
	default:
		b.WriteString(p.Addr.String() + ":")
	}
	if p.Last != 0 {
		fmt.Fprintf(&b, "%d-%d:%d-%d/%s", p.Published, p.Last, p.Target, p.Last, p.Proto)
	} else {
		fmt.Fprintf(&b, "%d:%d/%s", p.Published, p.Target, p.Proto)
	}
	if p.Mode != Meshed {
		b.WriteString(",mode=" + string(p.Mode))
	}
	if p.Sources != "" {
		b.WriteString(",source=" + strings.ReplaceAll(string(p.Sources), ",", ",source="))
	}
	return b.String()
}

// Front is what a client dials: "tcp/8080", "192.0.2.1 tcp/8080" or "udp/8000-8010".
func (p PublishedPort) Front() string {
	front := fmt.Sprintf("%s/%d", p.Proto, p.Published)
	if p.Last != 0 {
		front += fmt.Sprintf("-%d", p.Last)
	}
	if p.Addr.IsValid() {
		front = p.Addr.String() + " " + front
	}
	return front
}

// Overlaps tells whether one packet could be meant for both, on a node that answers for both.
func (p PublishedPort) Overlaps(q PublishedPort) bool {
	return p.Proto == q.Proto && p.Published <= q.End() && q.Published <= p.End() &&
		(!p.Addr.IsValid() || !q.Addr.IsValid() || p.Addr == q.Addr)
}

func comparePublished(a, b PublishedPort) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Published, b.Published), cmp.Compare(a.Target, b.Target),
		cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Sources, b.Sources))
}

func (s *Service) validatePublish() error {
	if len(s.Publish) > publishLimit {
		return Refuse(BadPublish, fmt.Sprintf("publish at most %d ports per service", publishLimit), "service %s publishes %d ports", s.Name, len(s.Publish))
	}
	var held heldPorts
	for _, p := range s.Publish {
		if err := p.validate(); err != nil {
			return err
		}
		if _, taken := held.overlapped(p); taken {
			return Refuse(PortTaken, "name each port once", "service %s publishes %s twice", s.Name, p.Front())
		}
		held.add(p, 0)
	}
	return nil
}

func (p PublishedPort) validate() error {
	if p.Proto != TCP && p.Proto != UDP && p.Proto != SCTP {
		return Refuse(BadPublish, "use tcp, udp or sctp", "protocol %.20q is not known", string(p.Proto))
	}
	if p.Mode != Meshed && p.Mode != Hosted {
		return Refuse(BadPublish, "use mode ingress or host", "publish mode %.20q is not known", string(p.Mode))
	}
	if p.Published == 0 || p.Target == 0 {
		return Refuse(BadPublish, "use ports from 1 to 65535", "%s has port 0", p)
	}
	if p.Last != 0 && (p.Mode != Hosted || p.Published != p.Target || p.Last <= p.Published) {
		return Refuse(BadPublish, "publish single ports instead", "%s is no range that keeps its numbers on its own node", p)
	}
	if p.Addr.IsValid() && !publishable(p.Addr) {
		return Refuse(BadAddress, "give one unicast address of the nodes", "%.60q is not an address to publish on", p.Addr)
	}
	if p.Sources == "" {
		return nil
	}
	s, err := ParseSources(string(p.Sources))
	if err == nil && s != p.Sources {
		err = Refuse(BadPublish, "write "+string(s), "sources %.80q are not in order", string(p.Sources))
	}
	return err
}

// publishable leaves loopback in: a port may be for the node itself. A zone is any text, which
// rules have no place for.
func publishable(a netip.Addr) bool {
	return a.IsLoopback() && !a.Is4In6() && a.Zone() == "" || validUnicast(a)
}
