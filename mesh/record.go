package mesh

import "cmp"

// Kind is the noun that a record is about.
type Kind string

// The kinds of record.
const (
	KindNode     Kind = "node"
	KindNetwork  Kind = "network"
	KindService  Kind = "service"
	KindEndpoint Kind = "endpoint"
	KindToken    Kind = "token"
	KindRemoval  Kind = "removal"
	KindRotation Kind = "rotation"
	KindKeyring  Kind = "keyring"
)

// Record is one versioned fact. Exactly the field that Kind names is set, or none
// where Deleted: then the record is a tombstone.
type Record struct {
	Kind    Kind
	ID      string
	Version Version
	Claim   uint64 // Time of the first write, by the word of this one's writer: the older claim holds a name or port
	Deleted bool

	// Freed are the addresses that an endpoint's tombstone frees, and FreedBy the service that it was of.
	Freed   []Freed
	FreedBy ServiceID

	// Body is the record as its writer encoded it, and Sig the writer's signature of it. Both are
	// kept and passed on as they came, with whatever this version does not know of. Body is nil
	// before a record is sealed, and Sig where the writer does not sign. Neither must be changed.
	Body []byte
	Sig  []byte

	Node     *Node
	Network  *Network
	Service  *Service
	Endpoint *Endpoint
	Token    *Token
	Removal  *Removal
	Rotation *Rotation
	Keyring  *Keyring
}

// Key identifies the fact over all its versions.
type Key struct {
	Kind Kind
	ID   string
}

// Compare orders keys by kind, then by ID.
func (k Key) Compare(l Key) int { return cmp.Or(cmp.Compare(k.Kind, l.Kind), cmp.Compare(k.ID, l.ID)) }

// Key returns the record's key.
func (r Record) Key() Key { return Key{r.Kind, r.ID} }

// NodeRecord, NetworkRecord, ServiceRecord and EndpointRecord wrap a noun; the
// version is set by whoever writes it.
func NodeRecord(n *Node) Record { return Record{Kind: KindNode, ID: string(n.ID), Node: n} }

// NetworkRecord wraps a network.
func NetworkRecord(n *Network) Record {
	return Record{Kind: KindNetwork, ID: string(n.ID), Network: n}
}

// ServiceRecord wraps a service.
func ServiceRecord(s *Service) Record {
	return Record{Kind: KindService, ID: string(s.ID), Service: s}
}

// EndpointRecord wraps an endpoint.
func EndpointRecord(e *Endpoint) Record {
	return Record{Kind: KindEndpoint, ID: string(e.ID), Endpoint: e}
}

// Validate refuses a record that is not whole, whose noun is not valid, or that was written by
// somebody who may not: node and endpoint records have one writer. Everything
// from disk or from another node passes here before it is merged.
//
// A tombstone may have any writer, since a node that is gone for good and its
// endpoints are removed by another. The owner of one that lives must write it again,
// with a newer version.
func (r Record) Validate() error {
	const do = "update the node that wrote it"
	if err := validID(r.ID); err != nil {
		return err
	}
	if r.Version.Time == 0 || r.Version.Time > timeLimit || r.Version.Writer.Validate() != nil || r.Claim == 0 || r.Claim > r.Version.Time {
		return Refuse(BadRecord, do, "record %.20q %s has version %d by %.40q", string(r.Kind), r.ID, r.Version.Time, string(r.Version.Writer))
	}
	nouns := 0
	for _, set := range []bool{r.Node != nil, r.Network != nil, r.Service != nil, r.Endpoint != nil, r.Token != nil, r.Removal != nil, r.Rotation != nil, r.Keyring != nil} {
		if set {
			nouns++
		}
	}
	if err := r.validateFreed(); err != nil {
		return err
	}
	if r.Deleted && nouns == 0 {
		return r.validateTombstone()
	}
	if r.Deleted || nouns != 1 {
		return Refuse(BadRecord, do, "record %.20q %s is not of one kind", string(r.Kind), r.ID)
	}
	return r.validateNoun()
}

func (r Record) validateTombstone() error {
	if r.Kind == KindNetwork && r.ID == string(IngressNetwork) {
		return Refuse(BadRecord, "update the node that wrote it", "the ingress network cannot be removed")
	}
	switch r.Kind {
	case KindRemoval, KindRotation, KindKeyring:
		return Refuse(BadRecord, "update the node that wrote it", "a %s cannot be taken back", r.Kind)
	case KindNode, KindNetwork, KindService, KindEndpoint, KindToken:
		return nil
	default:
		return Refuse(BadRecord, "update this node", "record kind %.40q is not known", string(r.Kind))
	}
}

func (r Record) validateNoun() error {
	var id string
	var err error
	writer := r.Version.Writer
	switch {
	case r.Kind == KindNode && r.Node != nil:
		id, err, writer = string(r.Node.ID), r.Node.Validate(), r.Node.ID
	case r.Kind == KindNetwork && r.Network != nil:
		id, err = string(r.Network.ID), r.Network.Validate()
	case r.Kind == KindService && r.Service != nil:
		id, err = string(r.Service.ID), r.Service.Validate()
	case r.Kind == KindEndpoint && r.Endpoint != nil:
		id, err, writer = string(r.Endpoint.ID), r.Endpoint.Validate(), r.Endpoint.Node
	case r.Kind == KindToken && r.Token != nil:
		id, err = string(r.Token.ID), r.Token.Validate()
	case r.Kind == KindRemoval && r.Removal != nil:
		id, err = string(r.Removal.Node), r.Removal.Validate()
	case r.Kind == KindRotation && r.Rotation != nil:
		id, err = r.Rotation.ID, r.Rotation.Validate(writer)
	case r.Kind == KindKeyring && r.Keyring != nil:
		id, err = r.Keyring.ID, r.Keyring.Validate()
	}
	if err != nil {
		return err
	}
	if r.Node != nil && !r.Node.claimedBy(r.Version.Time) {
		return Refuse(BadRecord, "update the node that wrote it", "node %s claims a slot or a block at no time, or something after its record was written", r.Node.Name)
	}
	if r.Network != nil && !r.Network.addedBy(r.Version.Time) {
		return Refuse(BadRecord, "update the node that wrote it", "network %s has a subnet that was added at no time, or after its record was written", r.Network.Name)
	}
	if r.Endpoint != nil && !r.Endpoint.leftBy(r.Version.Time) {
		return Refuse(BadRecord, "update the node that wrote it", "endpoint %s left an address at no time, or after its record was written", r.Endpoint.Name)
	}
	if id != r.ID || writer != r.Version.Writer {
		return Refuse(BadRecord, "update the node that wrote it", "record %.20q %s was written by %.40q about %.40q", string(r.Kind), r.ID, string(r.Version.Writer), id)
	}
	return nil
}
