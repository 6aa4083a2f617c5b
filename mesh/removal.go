package mesh

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
)

// Removal is that a node is none any more, whatever its own record says: it was put out, and
// what it writes, or anybody says for it, counts no more. There is no way back but as another node.
type Removal struct {
	Node NodeID
	Name string // as it was, for people
}

// Rotation is another generation of the cluster's CA and keys of gossip, which nodes that were
// removed have no part in.
type Rotation struct {
	ID     string   // the hash of all else: nobody can put something else in its place
	Maker  NodeID   // the only writer of the record
	From   []byte   // the CA before, DER: who came later knows by it where the new one came from
	Data   []byte   // as trust makes it; sealed to the nodes that remain
	Covers []NodeID // that were removed by then, sorted
}

// NewRotation is a rotation with its ID.
func NewRotation(maker NodeID, from, data []byte, covers []NodeID) *Rotation {
	r := &Rotation{Maker: maker, From: from, Data: data, Covers: covers}
	r.ID = r.sum()
	return r
}

func (r *Rotation) sum() string {
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) // it is within rotationLimit
		h.Write(b)
	}
	part([]byte(r.Maker))
	part(r.From)
	part(r.Data)
	for _, id := range r.Covers {
		part([]byte(id))
	}
	return hex.EncodeToString(h.Sum(nil))[:IDLength]
}

// RemovalRecord and RotationRecord wrap them.
func RemovalRecord(r *Removal) Record {
	return Record{Kind: KindRemoval, ID: string(r.Node), Removal: r}
}

// RotationRecord wraps a rotation.
func RotationRecord(r *Rotation) Record {
	return Record{Kind: KindRotation, ID: r.ID, Rotation: r}
}

// Limits of a rotation. Its data has 90 bytes a node.
const (
	rotationLimit = 600_000 // bytes
	coversLimit   = 10_000  // nodes
)

// Validate refuses a removal of nobody.
func (r *Removal) Validate() error {
	if err := validID(string(r.Node)); err != nil {
		return err
	}
	return ValidateName("node", r.Name)
}

// Validate refuses a rotation that no node makes, and one that another node wrote than made it:
// what it says of the removed must not be changed by who brings it.
func (r *Rotation) Validate(writer NodeID) error {
	const do = "update the node that wrote it"
	if err := validID(r.ID); err != nil {
		return err
	}
	if len(r.Data) == 0 || len(r.Data) > rotationLimit || len(r.From) > certLimit || len(r.Covers) > coversLimit {
		return Refuse(BadRecord, do, "rotation %s has %d bytes for %d nodes", r.ID, len(r.Data), len(r.Covers))
	}
	if r.ID != r.sum() {
		return Refuse(BadRecord, do, "rotation %s has other data than its ID says", r.ID)
	}
	if r.Maker != writer {
		return Refuse(BadRecord, do, "rotation %s by node %.40q is written by node %.40q", r.ID, string(r.Maker), string(writer))
	}
	for i, id := range r.Covers {
		if validID(string(id)) != nil || i > 0 && r.Covers[i-1] >= id {
			return Refuse(BadRecord, do, "rotation %s names removed nodes out of order", r.ID)
		}
	}
	return nil
}

// Removed tells whether a node was removed.
func (snap *Snapshot) Removed(id NodeID) bool {
	_, found := slices.BinarySearchFunc(snap.Removals, id, func(r *Removal, id NodeID) int { return strings.Compare(string(r.Node), string(id)) })
	return found
}

// Uncovered tells whether a node was removed that a rotation does not know of; nil is the
// generation that the cluster began with.
func (snap *Snapshot) Uncovered(r *Rotation) bool {
	return slices.ContainsFunc(snap.Removals, func(gone *Removal) bool {
		if r == nil {
			return true
		}
		_, covered := slices.BinarySearch(r.Covers, gone.Node)
		return !covered
	})
}
