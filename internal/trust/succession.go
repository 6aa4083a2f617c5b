package trust

import (
	"bytes"
	"crypto/ed25519"

	"github.com/sluice-mesh/sluice/mesh"
)

// A succession is one generation's word for the next: who made the next CA, and which it
// is, signed with the key of the CA before it and with the maker's own. It is public, and
// is kept for those who were away.
//
// Whoever was a member may make one, a node that is being removed as well. So it counts
// only where its maker is believed, and of several the CAs' order decides.
type wireSuccession struct {
	Version int    `json:"v"`
	Body    []byte `json:"body"` // JSON of successionBody, as it was signed
	ByCA    []byte `json:"byCA"`
	ByMaker []byte `json:"byMaker"`
}

type successionBody struct {
	Version   int    `json:"v"`
	From      []byte `json:"from"` // pin of the CA before
	Maker     []byte `json:"maker"`
	Authority []byte `json:"authority"` // DER of the next
}

const (
	purposeSuccession = "sluice-succession/1"
	successionLimit   = 8 << 10
)

// Succeed is a's word for next, by the node that made it.
func (a *Authority) Succeed(next *Authority, maker Key) ([]byte, error) {
	if !a.CanIssue() {
		return nil, mesh.Refuse(NotIssuer, "remove the node on another node", "the CA's key is not on this machine")
	}
	from, public := a.Pin(), maker.Public()
	body, err := encode(successionBody{Version: formatVersion, From: from[:], Maker: public[:], Authority: next.Certificate()})
	if err != nil {
		return nil, err
	}
	return encode(wireSuccession{
		Version: formatVersion, Body: body,
		ByCA: a.key.signed(purposeSuccession, body), ByMaker: maker.signed(purposeSuccession, body),
	})
}

// Follow is the CA, without its key, that succession says comes after a, and the node
// that made it. It refuses with WrongCluster where another CA is meant than a, and with
// BadSignature, BadCertificate, BadMessage or NewerVersion.
func (a *Authority) Follow(succession []byte) (next *Authority, maker mesh.NodeID, err error) {
	const what = "the succession of the CA"
	var w wireSuccession
	if err := decode(what, succession, successionLimit, &w); err != nil {
		return nil, "", err
	}
	var body successionBody
	if err := decode(what, w.Body, successionLimit, &body); err != nil {
		return nil, "", err
	}
	if pin := a.Pin(); !bytes.Equal(body.From, pin[:]) {
		return nil, "", mesh.Refuse(WrongCluster, "join again with a new token", "the succession is that of another CA than generation %d here", a.generation)
	}
	if len(body.Maker) != KeySize {
		return nil, "", damaged(what, "a key has another length")
	}
	by, key := PublicKey(a.cert.PublicKey.(ed25519.PublicKey)), PublicKey(body.Maker)
	if !by.verifies(purposeSuccession, w.Body, w.ByCA) || !key.verifies(purposeSuccession, w.Body, w.ByMaker) {
		return nil, "", mesh.Refuse(BadSignature, "join again with a new token", "the succession of CA generation %d is not signed by it and by node %s", a.generation, key.ID())
	}
	if next, err = ParseAuthority(body.Authority); err != nil {
		return nil, "", err
	}
	if next.generation != a.generation+1 {
		return nil, "", badAuthority("generation %d cannot follow generation %d", next.generation, a.generation)
	}
	return next, key.ID(), nil
}
