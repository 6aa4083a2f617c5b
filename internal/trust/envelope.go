package trust

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// An envelope is a text that several nodes can read:
//
//	version 1 | how many nodes, 2 | for each, in order: ID 8, the text's key sealed 80 | the text, AES-256-GCM
//
// So it grows by 88 bytes a node, however long the text is.
const (
	envelopeVersion = 1
	envelopeHead    = 1 + 2
	envelopeID      = mesh.IDLength / 2
	envelopeSealed  = aesKeySize + sealOverhead
	envelopeEntry   = envelopeID + envelopeSealed
	envelopeNodes   = 1<<16 - 1
	aesKeySize      = 32
)

// SealFor encrypts text so that each of the nodes can read it with OpenEnvelope, for the
// same purpose, and nobody else. It refuses with BadSeal and names the node where one's
// key is none. Who made it is not said: what carries it must be signed.
func SealFor(nodes []PublicKey, purpose string, text []byte) ([]byte, error) {
	if len(nodes) > envelopeNodes || len(text) > sealLimit {
		return nil, mesh.Refuse(BadSeal, "seal less", "%d nodes and %d bytes are too many for an envelope", len(nodes), len(text))
	}
	var key [aesKeySize]byte
	rand.Read(key[:])
	entries := make([][]byte, 0, len(nodes))
	for _, node := range nodes {
		sealed, err := Seal(node, purpose, key[:])
		if err != nil {
			return nil, err
		}
		entries = append(entries, append(envelopeName(node.ID()), sealed...))
	}
	slices.SortFunc(entries, bytes.Compare)
	entries = slices.CompactFunc(entries, func(a, b []byte) bool { return bytes.Equal(a[:envelopeID], b[:envelopeID]) })
	box, err := envelopeBox(key)
	if err != nil {
		return nil, err
	}
	envelope := append(make([]byte, 0, envelopeHead+len(entries)*envelopeEntry+len(text)+box.Overhead()),
		envelopeVersion, byte(len(entries)>>8), byte(len(entries)))
	for _, e := range entries {
		envelope = append(envelope, e...)
	}
	return box.Seal(envelope, nil, text, inDomain(purpose, envelope)), nil
}

// OpenEnvelope is the text that was sealed for this key among others. It refuses with
// BadSeal, BadMessage or NewerVersion.
func (k Key) OpenEnvelope(purpose string, envelope []byte) ([]byte, error) {
	nodes, text, err := splitEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	name := envelopeName(k.ID())
	i := slices.IndexFunc(nodes, func(e []byte) bool { return bytes.Equal(e[:envelopeID], name) })
	if i < 0 {
		return nil, mesh.Refuse(BadSeal, "join again with a new token", "nothing was sealed for node %s: it was removed", k.ID())
	}
	key, err := k.Open(purpose, nodes[i][envelopeID:])
	if err != nil {
		return nil, err
	}
	box, err := envelopeBox([aesKeySize]byte(key))
	if err != nil {
		return nil, err
	}
	head := envelope[:len(envelope)-len(text)]
	plain, err := box.Open(nil, nil, text, inDomain(purpose, head))
	if err != nil {
		return nil, damaged("the envelope", "its text was changed")
	}
	return plain, nil
}

// Sealed lists the nodes that an envelope is for, in the order of their IDs. Nothing in
// it is proven.
func Sealed(envelope []byte) ([]mesh.NodeID, error) {
	nodes, _, err := splitEnvelope(envelope)
	if err != nil {
		return nil, err
	}
	ids := make([]mesh.NodeID, len(nodes))
	for i, e := range nodes {
		ids[i] = mesh.NodeID(hex.EncodeToString(e[:envelopeID]))
	}
	return ids, nil
}

// splitEnvelope gives the entries, which must be in order, and the encrypted text.
func splitEnvelope(envelope []byte) (nodes [][]byte, text []byte, err error) {
	const what = "the envelope"
	if len(envelope) < envelopeHead {
		return nil, nil, damaged(what, "it is cut")
	}
	switch v := int(envelope[0]); {
	case v > envelopeVersion:
		return nil, nil, newer(what, v, envelopeVersion)
	case v < envelopeVersion:
		return nil, nil, damaged(what, "it has no version")
	}
	count, rest := int(envelope[1])<<8|int(envelope[2]), envelope[envelopeHead:]
	if len(rest) < count*envelopeEntry {
		return nil, nil, damaged(what, "it is cut")
	}
	for i := range count {
		e := rest[:envelopeEntry]
		if i > 0 && bytes.Compare(nodes[i-1][:envelopeID], e[:envelopeID]) >= 0 {
			return nil, nil, damaged(what, "its nodes are not in order")
		}
		nodes, rest = append(nodes, e), rest[envelopeEntry:]
	}
	if len(rest) > sealLimit+aes.BlockSize+gcmNonce {
		return nil, nil, damaged(what, fmt.Sprintf("its text has %d bytes", len(rest)))
	}
	return nodes, rest, nil
}

const gcmNonce = 12

func envelopeBox(key [aesKeySize]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func envelopeName(id mesh.NodeID) []byte {
	raw, _ := hex.DecodeString(string(id)) // of our own making: PublicKey.ID
	return raw
}
