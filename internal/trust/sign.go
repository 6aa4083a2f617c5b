package trust

import (
	"crypto/ed25519"

	"github.com/sluice-mesh/sluice/mesh"
)

// SignatureSize is the number of bytes of a record's signature: the writer's public
// key and its Ed25519 signature. With the key in it a record can be judged by a
// node that never met the writer: the writer's ID is the key's hash.
const SignatureSize = KeySize + ed25519.SignatureSize

const purposeRecord = "sluice-record/1"

// Sign is this node's word for a record's body, whose writer it is. Body is not
// changed. Its length is what the caller allows: it is read once.
func (k Key) Sign(body []byte) []byte {
	p := k.Public()
	return append(p[:], k.signed(purposeRecord, body)...)
}

// Verify refuses with BadSignature what writer did not sign. That writer is a member
// is another question: see Verifier.
func Verify(writer mesh.NodeID, body, signature []byte) error {
	const do = "look for a node that runs another version or was tampered with"
	if len(signature) != SignatureSize {
		return mesh.Refuse(BadSignature, do, "a record of node %.40q has a signature of %d bytes, not %d", writer, len(signature), SignatureSize)
	}
	key := PublicKey(signature[:KeySize])
	if key.ID() != writer {
		return mesh.Refuse(BadSignature, do, "a record of node %.40q is signed by node %s", writer, key.ID())
	}
	if !key.verifies(purposeRecord, body, signature[KeySize:]) {
		return mesh.Refuse(BadSignature, do, "a record of node %s is not what that node signed", writer)
	}
	return nil
}

// Verifier judges records that anyone may have passed on: they must be signed by
// their writer, and the writer must be admitted.
type Verifier struct {
	// Admitted refuses a writer that is no member; nil refuses nobody. It is asked
	// after the signature, and must be safe for concurrent use.
	Admitted func(mesh.NodeID) error
}

// Verify refuses a record that is not its writer's word, or whose writer is no member.
func (v Verifier) Verify(writer mesh.NodeID, body, signature []byte) error {
	if err := Verify(writer, body, signature); err != nil {
		return err
	}
	if v.Admitted == nil {
		return nil
	}
	return v.Admitted(writer)
}
