package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// The return exchange is for a node that was away while another was removed: it knows
// neither the CA nor the keys of gossip of now, and its own certificate is worth nothing.
// Its key still is: the cluster knows it by its ID.
//
//	client  request (JSON) | one signature over the connection and the request, by its key
//	server  answer (JSON): a refusal, or the successions since its generation and the Bundle
//
// It is framed and bound to its TLS as joining is. The server's CA is believed only once
// the successions lead to it; what was sent before that is of no use elsewhere.
const (
	purposeReturn = "sluice-return/1"

	// returnAnswerLimit leaves room for some hundred successions of about 1 KB.
	returnAnswerLimit = 256 << 10
)

type wireReturn struct {
	Version int    `json:"v"`
	Key     []byte `json:"key"`
	Pin     []byte `json:"pin"` // of the CA that it believes
}

type wireReturned struct {
	Version     int          `json:"v"`
	Refusal     *wireRefusal `json:"refusal,omitempty"`
	Successions [][]byte     `json:"successions,omitempty"`
	Bundle      *wireBundle  `json:"bundle,omitempty"`
}

// Returning is a node that was away.
type Returning struct {
	Key       Key
	Authority *Authority // the newest that it knows; its key is not needed
	Now       func() time.Time

	// Believed refuses a node that may not have made a CA: one that this node does not know
	// or knows to be removed. A node that was removed meanwhile passes, and can lead a
	// returning one astray if it answers first: nobody can tell the two halves of a cluster
	// apart that removed each other. Whoever wants more than that asks several nodes and
	// takes the greatest CA.
	Believed func(maker mesh.NodeID) error
}

// Return asks the node at the other end of conn for what this node missed. It returns the
// cluster's refusal as it is, WrongCluster where the CA that answers does not follow from
// the one that is known, or an error of conn. conn stays open and is of no more use.
func Return(ctx context.Context, conn net.Conn, r Returning) (Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	defer interrupt(ctx, conn)()
	b, err := r.ask(ctx, conn)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the deadline on conn says only that time was over
	}
	if err != nil {
		return Bundle{}, fmt.Errorf("ask for what was missed: %w", err)
	}
	return b, nil
}

func (r Returning) ask(ctx context.Context, conn net.Conn) (Bundle, error) {
	var claimed *Authority
	cfg := plain(ProtocolReturn)
	cfg.InsecureSkipVerify = true // of a CA that is not known yet: lineage judges it below
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		var err error
		if claimed, err = brought(state.PeerCertificates, r.Now()); err != nil {
			return err
		}
		return spoken(state, ProtocolReturn)
	}
	session := tls.Client(conn, cfg)
	if err := session.HandshakeContext(ctx); err != nil {
		return Bundle{}, err
	}
	if err := r.send(session); err != nil {
		return Bundle{}, err
	}
	data, err := readMessage(session, returnAnswerLimit)
	if err != nil {
		return Bundle{}, err
	}
	answer, err := parseReturned(data)
	if err != nil {
		return Bundle{}, err
	}
	if answer.Refusal != nil {
		return Bundle{}, answer.Refusal.err()
	}
	return r.judge(answer, claimed)
}

func (r Returning) send(session *tls.Conn) error {
	key, pin := r.Key.Public(), r.Authority.Pin()
	return ask(session, wireReturn{Version: formatVersion, Key: key[:], Pin: pin[:]}, func(message []byte) []byte {
		return r.Key.signed(purposeReturn, message)
	})
}

// judge follows the successions to the CA that the server stands under.
func (r Returning) judge(answer wireReturned, claimed *Authority) (Bundle, error) {
	reached := r.Authority
	for _, s := range answer.Successions {
		next, maker, err := reached.Follow(s)
		if err != nil {
			return Bundle{}, err
		}
		if err := r.Believed(maker); err != nil {
			return Bundle{}, err
		}
		reached = next
	}
	if reached.Pin() != claimed.Pin() {
		return Bundle{}, mesh.Refuse(WrongCluster, "join again with a new token", "the node's CA does not follow from generation %d here", r.Authority.generation)
	}
	b, err := answer.Bundle.bundle()
	if err != nil {
		return Bundle{}, err
	}
	if b.Authority.Pin() != claimed.Pin() {
		return Bundle{}, badAuthority("it is another than the one that answers")
	}
	return b, nil
}

// brought gives the CA that a server brought, if it vouches for the server as a node.
// Whether the CA is to be believed is not said.
func brought(certs []*x509.Certificate, now time.Time) (*Authority, error) {
	if len(certs) != 2 {
		return nil, mesh.Refuse(BadCertificate, "check the address", "the node sent %d certificates, and a sluice sends 2", len(certs))
	}
	a, err := ParseAuthority(certs[1].Raw)
	if err != nil {
		return nil, err
	}
	id, err := a.identify(certs[0], now)
	if err != nil {
		return nil, err
	}
	return a, mustBe(id, []Role{RoleNode})
}

func parseReturn(data []byte) (wireReturn, error) {
	const what = "the request of a node that was away"
	var r wireReturn
	if err := decode(what, data, requestLimit, &r); err != nil {
		return r, err
	}
	if len(r.Key) != KeySize || len(r.Pin) != PinSize {
		return r, damaged(what, "a key or pin has another length")
	}
	return r, nil
}

func parseReturned(data []byte) (wireReturned, error) {
	const what = "the answer to a node that was away"
	var a wireReturned
	if err := decode(what, data, returnAnswerLimit, &a); err != nil {
		return a, err
	}
	if a.Refusal == nil && a.Bundle == nil {
		return a, damaged(what, "it holds neither keys nor a refusal")
	}
	return a, nil
}
