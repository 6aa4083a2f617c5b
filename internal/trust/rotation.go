package trust

import (
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A rotation is what the removal of a node leaves to the others: the succession, for
// all to see, and the next Bundle, sealed to each of them.
type wireRotation struct {
	Version    int    `json:"v"`
	Succession []byte `json:"succession"`
	Envelope   []byte `json:"envelope"`
}

const (
	purposeRotation = "sluice-rotation/1"
	rotationLimit   = 16 << 20 // some 100,000 nodes
)

// Rotate makes the bundle that comes after b, and the rotation by which the nodes that
// remain come by it. Who is not among them has no part in what follows: not in gossip, not
// in a connection, not in a record. maker is the key of the node that does it, and should
// be among the remaining. The rotation is no secret.
func (b Bundle) Rotate(maker Key, remaining []PublicKey, now time.Time) (Bundle, []byte, error) {
	next, err := b.Next(now)
	if err != nil {
		return Bundle{}, nil, err
	}
	text, err := next.Marshal()
	if err != nil {
		return Bundle{}, nil, err
	}
	succession, err := b.Authority.Succeed(next.Authority, maker)
	if err != nil {
		return Bundle{}, nil, err
	}
	envelope, err := SealFor(remaining, purposeRotation, text)
	if err != nil {
		return Bundle{}, nil, err
	}
	rotation, err := encode(wireRotation{Version: formatVersion, Succession: succession, Envelope: envelope})
	return next, rotation, err
}

// Rotated is what a rotation says to who cannot open it, and what of it is to be kept for
// those who were away.
type Rotated struct {
	Authority  *Authority // without its key
	Maker      mesh.NodeID
	Nodes      []mesh.NodeID // that it is sealed to, in order
	Succession []byte
}

// ReadRotation judges a rotation that follows a, without opening it. It refuses as
// Authority.Follow does.
func (a *Authority) ReadRotation(rotation []byte) (Rotated, error) {
	r, _, err := a.readRotation(rotation)
	return r, err
}

func (a *Authority) readRotation(rotation []byte) (Rotated, []byte, error) {
	var w wireRotation
	if err := decode("the rotation", rotation, rotationLimit, &w); err != nil {
		return Rotated{}, nil, err
	}
	next, maker, err := a.Follow(w.Succession)
	if err != nil {
		return Rotated{}, nil, err
	}
	nodes, err := Sealed(w.Envelope)
	if err != nil {
		return Rotated{}, nil, err
	}
	return Rotated{Authority: next, Maker: maker, Nodes: nodes, Succession: w.Succession}, w.Envelope, nil
}

// OpenRotation is the bundle that a rotation gives to the node of key. It refuses as
// ReadRotation does, and with BadSeal where the node was removed.
func (a *Authority) OpenRotation(rotation []byte, key Key) (Bundle, error) {
	r, envelope, err := a.readRotation(rotation)
	if err != nil {
		return Bundle{}, err
	}
	text, err := key.OpenEnvelope(purposeRotation, envelope)
	if err != nil {
		return Bundle{}, err
	}
	b, err := ParseBundle(text)
	if err != nil {
		return Bundle{}, err
	}
	if b.Authority.Pin() != r.Authority.Pin() {
		return Bundle{}, badAuthority("what was sealed is another CA than what was said")
	}
	return b, nil
}
