package mesh

import "net/netip"

// Sender is one client's end of a flow, as endpoints see it.
type Sender struct {
	Proto  Proto
	Client netip.AddrPort
}

// Valid tells whether a node can say this of a client. Anybody can send from port 0, and
// conntrack knows such a flow; no connection comes from there.
func (s Sender) Valid() bool {
	a := s.Client.Addr()
	return (s.Proto == TCP || s.Proto == UDP || s.Proto == SCTP) &&
		a.IsValid() && !a.Is4In6() && a.Zone() == "" && s.Client.Port() != 0
}

// Over is word from a node that flows which came by it are over there: it lost the address
// that they were dialled at. Who has their endpoints forgets them, so that the clients can
// go on by another node. It is no record: it is true once, and nobody keeps it.
type Over struct {
	Node    NodeID // whose flows they are, and who says so
	Senders []Sender
}

// OverLimit is how many senders one Over has at most.
const OverLimit = 8192

// Validate refuses what no node says. What comes from another node passes here.
func (o Over) Validate() error {
	const do = "update the node that sent it"
	if err := o.Node.Validate(); err != nil {
		return err
	}
	if len(o.Senders) == 0 || len(o.Senders) > OverLimit {
		return Refuse(BadRecord, do, "node %s says that %d flows are over, from 1 to %d are allowed", o.Node, len(o.Senders), OverLimit)
	}
	for _, s := range o.Senders {
		if !s.Valid() {
			return Refuse(BadRecord, do, "node %s says that a flow of %.10q from %.60q is over", o.Node, string(s.Proto), s.Client.String())
		}
	}
	return nil
}
