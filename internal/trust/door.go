package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Door is a node's side of joining and returning. Its fields do not change; safe for
// concurrent use, as its functions must be.
type Door struct {
	// Grant is what the cluster keeps of a token; false where it has none.
	Grant func(TokenID) (Grant, bool)

	// Bundle is what a node gets. Its CA issues the certificate of who joins.
	Bundle func() Bundle

	// Admit refuses who has a good token all the same; nil refuses nobody.
	Admit func(Identity) error

	// Trail leads to the Bundle's CA. Who joins gets it too.
	Trail Trail

	// Return refuses a node that is no member any more, or never was, and gives the
	// successions that lead from one of the CAs that it knows, which are by their pins, to
	// the Bundle's, the oldest first. Beside a refusal they prove that it is the cluster's. nil
	// refuses everybody.
	Return func(node mesh.NodeID, known []Pin) (from Pin, successions [][]byte, err error)

	Now func() time.Time
}

// Serve answers one request on a connection that Credentials.Server has accepted for
// ProtocolJoin or ProtocolReturn, whose handshake may be still to do, and returns who got
// in. The error is what the client was refused with, or one of conn. It takes JoinTimeout
// at most, and leaves conn open for the caller to close.
func (d *Door) Serve(ctx context.Context, conn *tls.Conn) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	defer interrupt(ctx, conn.NetConn())()
	id, err := d.serve(ctx, conn)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("answer at the door: %w", err)
	}
	return id, nil
}

func (d *Door) serve(ctx context.Context, conn *tls.Conn) (Identity, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return Identity{}, err
	}
	switch got := conn.ConnectionState().NegotiatedProtocol; Protocol(got) {
	case ProtocolJoin:
		return d.serveJoin(conn)
	case ProtocolReturn:
		return d.serveReturn(conn)
	default:
		return Identity{}, mesh.Refuse(NoProtocol, "call for "+string(ProtocolJoin), "TLS for %.40q at the door", got)
	}
}

// asked is a request as it came: what it says, and who signed it is still to be seen.
type asked struct {
	request []byte
	message []byte // what the signatures are over
	proofs  []byte
}

func readAsked(conn *tls.Conn, proofs int) (asked, error) {
	request, err := readMessage(conn, requestLimit)
	if err != nil {
		return asked{}, err
	}
	signatures, err := readMessage(conn, proofs)
	if err != nil {
		return asked{}, err
	}
	if len(signatures) != proofs {
		return asked{}, damaged("the request", "a signature is missing")
	}
	message, err := bound(conn.ConnectionState(), request)
	return asked{request: request, message: message, proofs: signatures}, err
}

func answered(conn *tls.Conn, answer any) error {
	data, err := encode(answer)
	if err != nil {
		return err
	}
	return writeMessage(conn, data)
}

func (d *Door) serveJoin(conn *tls.Conn) (Identity, error) {
	id, answer, err := d.decideJoin(conn)
	if err != nil {
		if answer.Refusal = refusalOf(err); answer.Refusal == nil {
			return Identity{}, err
		}
	}
	answer.Version = formatVersion
	return id, errors.Join(err, answered(conn, answer))
}

// decideJoin admits or refuses. Who has not proven the token's secret learns nothing of it.
func (d *Door) decideJoin(conn *tls.Conn) (Identity, wireAnswer, error) {
	a, err := readAsked(conn, proofsSize)
	if err != nil {
		return Identity{}, wireAnswer{}, err
	}
	r, err := parseRequest(a.request)
	if err != nil {
		return Identity{}, wireAnswer{}, err
	}
	grant, known := d.Grant(r.Token)
	// Of a token that nobody has the same is computed, so that it takes as long.
	proven := grant.proves(PublicKey(r.TokenKey), a.message, a.proofs[:ed25519.SignatureSize])
	if !known || !proven {
		return Identity{}, wireAnswer{}, unknownToken()
	}
	if !PublicKey(r.Key).verifies(purposeJoin, a.message, a.proofs[ed25519.SignatureSize:]) {
		return Identity{}, wireAnswer{}, mesh.Refuse(BadSignature, "update sluice on the new machine", "the join request is not signed by the key that it brings")
	}
	bundle := d.Bundle()
	if err := grant.Check(r.Role, bundle.Authority.Pin(), d.Now()); err != nil {
		return Identity{}, wireAnswer{}, err
	}
	return d.admit(r, bundle)
}

func (d *Door) admit(r wireRequest, bundle Bundle) (Identity, wireAnswer, error) {
	now := d.Now()
	der, err := bundle.Authority.Issue(r.Role, r.Name, PublicKey(r.Key), now)
	if err != nil {
		return Identity{}, wireAnswer{}, err
	}
	id, err := bundle.Authority.Identify(der, now)
	if err != nil {
		return Identity{}, wireAnswer{}, err
	}
	if d.Admit != nil {
		if err := d.Admit(id); err != nil {
			return Identity{}, wireAnswer{}, err
		}
	}
	answer := wireAnswer{Certificate: der}
	if id.Role == RoleNode {
		w, err := bundle.wire()
		if err != nil {
			return Identity{}, wireAnswer{}, err
		}
		answer.Bundle, answer.Trail = &w, d.Trail.wire()
	}
	return id, answer, nil
}

func (d *Door) serveReturn(conn *tls.Conn) (Identity, error) {
	id, answer, err := d.decideReturn(conn)
	if err != nil {
		if answer.Refusal = refusalOf(err); answer.Refusal == nil {
			return Identity{}, err
		}
	}
	answer.Version = formatVersion
	return id, errors.Join(err, answered(conn, answer))
}

func (d *Door) decideReturn(conn *tls.Conn) (Identity, wireReturned, error) {
	a, err := readAsked(conn, ed25519.SignatureSize)
	if err != nil {
		return Identity{}, wireReturned{}, err
	}
	r, err := parseReturn(a.request)
	if err != nil {
		return Identity{}, wireReturned{}, err
	}
	key := PublicKey(r.Key)
	if !key.verifies(purposeReturn, a.message, a.proofs) {
		return Identity{}, wireReturned{}, mesh.Refuse(BadSignature, "update sluice on that machine", "the request is not signed by the key that it brings")
	}
	if d.Return == nil {
		return Identity{}, wireReturned{}, mesh.Refuse(NoProtocol, "join again with a new token", "nobody returns by this node")
	}
	bundle := d.Bundle()
	from, successions, err := d.Return(key.ID(), r.known())
	if err != nil {
		return Identity{}, wireReturned{From: from[:], Successions: successions}, err
	}
	w, err := bundle.wire()
	if err != nil {
		return Identity{}, wireReturned{}, err
	}
	id := Identity{Role: RoleNode, Node: key.ID(), Key: key, Generation: bundle.Authority.Generation()}
	return id, wireReturned{From: from[:], Successions: successions, Bundle: &w}, nil
}
