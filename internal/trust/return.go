package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// The return exchange is for a node that was away while another was removed: it knows
// neither the CA nor the keys of gossip of now, and its own certificate is worth nothing.
// Its key still is: the cluster knows it by its ID.
//
//	client  request (JSON) | one signature over the connection and the request, by its key
//	server  answer (JSON): the successions since its generation, and a refusal or the Bundle
//
// It is framed and bound to its TLS as joining is. The server's CA is believed only once
// the successions lead to it; what was sent before that is of no use elsewhere. The node names all
// CAs that it has believed: the one that answers may know a way from an older one alone.
const (
	purposeReturn = "sluice-return/1"

	// returnAnswerLimit leaves room for some hundred successions of about 1 KB.
	returnAnswerLimit = 256 << 10

	// returnPins is how many CAs a request names; it is 3 KB with so many.
	returnPins = 64
)

type wireReturn struct {
	Version int    `json:"v"`
	Key     []byte `json:"key"`
	Pin     []byte `json:"pin"` // of the CA that it believes

	Before [][]byte `json:"before,omitempty"` // pins of others that it knows, the newest first
}

type wireReturned struct {
	Version     int          `json:"v"`
	Refusal     *wireRefusal `json:"refusal,omitempty"`
	From        []byte       `json:"from,omitempty"` // pin of the CA where the successions begin; none: the request's
	Successions [][]byte     `json:"successions,omitempty"`
	Bundle      *wireBundle  `json:"bundle,omitempty"`
}

// Returning is a node that was away.
type Returning struct {
	Key   Key
	Known []*Authority // that it may be led from, the one that it believes first; one at least. Their keys are not needed
	Now   func() time.Time

	// Believed refuses a node that may not have made a CA: one that this node does not know
	// or knows to be removed. A node that was removed meanwhile passes, and can lead a
	// returning one astray if it answers first: nobody can tell the two halves of a cluster
	// apart that removed each other. Whoever wants more than that asks several nodes and
	// takes the greatest CA.
	Believed func(maker mesh.NodeID) error
}

// Returned is what a node gets that was away.
type Returned struct {
	Bundle Bundle // the zero Bundle with an error

	// Answers is the CA that the other node claims to be of, also with an error; nil where it
	// did not come so far. A refusal by one that does not come after the CA that is believed is
	// no word of the cluster: it is the other node that missed something.
	Answers *Authority

	// Proven tells, with a refusal, that it comes from a CA to which successions lead from one that
	// is known. Any other is the word of whoever answers at an address.
	Proven bool

	From        *Authority // one of those that were known
	Successions [][]byte   // from it to the Bundle's
}

// Return asks the node at the other end of conn for what this node missed. It returns the
// cluster's refusal as it is, WrongCluster where the CA that answers does not follow from
// one that is known, or an error of conn. conn stays open and is of no more use.
func Return(ctx context.Context, conn net.Conn, r Returning) (Returned, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	defer interrupt(ctx, conn)()
	got, err := r.ask(ctx, conn)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // the deadline on conn says only that time was over
	}
	if err != nil {
		return Returned{Answers: got.Answers, Proven: got.Proven}, fmt.Errorf("ask for what was missed: %w", err)
	}
	return got, nil
}

func (r Returning) ask(ctx context.Context, conn net.Conn) (got Returned, err error) {
	cfg := plain(ProtocolReturn)
	cfg.InsecureSkipVerify = true // of a CA that is not known yet: lineage judges it below
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		var err error
		if got.Answers, err = brought(state.PeerCertificates, r.Now()); err != nil {
			return err
		}
		return spoken(state, ProtocolReturn)
	}
	session := tls.Client(conn, cfg)
	if err := session.HandshakeContext(ctx); err != nil {
		return got, err
	}
	if err := r.send(session); err != nil {
		return got, err
	}
	data, err := readMessage(session, returnAnswerLimit)
	if err != nil {
		return got, err
	}
	answer, err := parseReturned(data)
	if err != nil {
		return got, err
	}
	if answer.Refusal != nil {
		reached, err := r.follow(r.beginning(answer.From), answer.Successions)
		got.Proven = err == nil && len(answer.Successions) > 0 && reached.Pin() == got.Answers.Pin()
		return got, answer.Refusal.err()
	}
	got.From, got.Successions = r.beginning(answer.From), answer.Successions
	got.Bundle, err = r.judge(answer, got.From, got.Answers)
	return got, err
}

// beginning is the known CA of a pin, or the one that is believed.
func (r Returning) beginning(pin []byte) *Authority {
	for _, a := range r.Known {
		if p := a.Pin(); bytes.Equal(p[:], pin) {
			return a
		}
	}
	return r.Known[0]
}

func (r Returning) send(session *tls.Conn) error {
	key, pin := r.Key.Public(), r.Known[0].Pin()
	request := wireReturn{Version: formatVersion, Key: key[:], Pin: pin[:]}
	for _, a := range r.Known[1:min(len(r.Known), returnPins)] {
		before := a.Pin()
		request.Before = append(request.Before, before[:])
	}
	return ask(session, request, func(message []byte) []byte {
		return r.Key.signed(purposeReturn, message)
	})
}

// judge follows the successions to the CA that the server stands under.
func (r Returning) judge(answer wireReturned, from, claimed *Authority) (Bundle, error) {
	reached, err := r.follow(from, answer.Successions)
	if err != nil {
		return Bundle{}, err
	}
	if reached.Pin() != claimed.Pin() {
		return Bundle{}, mesh.Refuse(WrongCluster, "join again with a new token", "the node's CA does not follow from generation %d here", from.generation)
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

// follow is the CA that successions by believed nodes lead to.
func (r Returning) follow(from *Authority, successions [][]byte) (*Authority, error) {
	reached := from
	for _, s := range successions {
		next, maker, err := reached.Follow(s)
		if err != nil {
			return nil, err
		}
		if err := r.Believed(maker); err != nil {
			return nil, err
		}
		reached = next
	}
	return reached, nil
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
	short := func(pin []byte) bool { return len(pin) != PinSize }
	if len(r.Key) != KeySize || short(r.Pin) || slices.ContainsFunc(r.Before, short) {
		return r, damaged(what, "a key or pin has another length")
	}
	return r, nil
}

// known are the pins that a request names, the one that is believed first.
func (r wireReturn) known() []Pin {
	pins := []Pin{Pin(r.Pin)}
	for _, p := range r.Before {
		pins = append(pins, Pin(p))
	}
	return pins
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
