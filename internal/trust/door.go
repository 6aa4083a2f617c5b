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

// Door is a node's side of joining. Its fields do not change; safe for concurrent use, as
// its functions must be.
type Door struct {
	// Grant is what the cluster keeps of a token; false where it has none.
	Grant func(TokenID) (Grant, bool)

	// Bundle is what a new node gets. Its CA issues the certificate.
	Bundle func() Bundle

	// Admit refuses who has a good token all the same; nil refuses nobody.
	Admit func(Identity) error

	Now func() time.Time
}

// Serve answers one request on a connection that Credentials.Server has accepted for
// ProtocolJoin, whose handshake may be still to do, and returns who was admitted. The
// error is what the client was refused with, or one of conn. It takes JoinTimeout at
// most, and leaves conn open for the caller to close.
func (d *Door) Serve(ctx context.Context, conn *tls.Conn) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	defer interrupt(ctx, conn.NetConn())()
	id, err := d.serve(ctx, conn)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("answer a join request: %w", err)
	}
	return id, nil
}

func (d *Door) serve(ctx context.Context, conn *tls.Conn) (Identity, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return Identity{}, err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != string(ProtocolJoin) {
		return Identity{}, mesh.Refuse(NoProtocol, "call for "+string(ProtocolJoin), "TLS for %.40q at the door for new members", got)
	}
	request, message, proofs, err := readRequest(conn)
	if err != nil && mesh.ReasonOf(err) == "" {
		return Identity{}, err
	}
	var id Identity
	answer := wireAnswer{}
	if err == nil {
		id, answer, err = d.decide(request, message, proofs)
	}
	if err != nil {
		answer = wireAnswer{Refusal: refusalOf(err)}
	}
	answer.Version = formatVersion
	data, failed := encode(answer)
	if failed == nil {
		failed = writeMessage(conn, data)
	}
	return id, errors.Join(err, failed)
}

// readRequest reads a request, what its signatures are over, and these.
func readRequest(conn *tls.Conn) (r wireRequest, message, proofs []byte, err error) {
	data, err := readMessage(conn, requestLimit)
	if err != nil {
		return r, nil, nil, err
	}
	if proofs, err = readMessage(conn, proofsSize); err != nil {
		return r, nil, nil, err
	}
	if r, err = parseRequest(data); err != nil {
		return r, nil, nil, err
	}
	if len(proofs) != proofsSize {
		return r, nil, nil, damaged("the join request", "a signature is missing")
	}
	message, err = signedJoin(conn.ConnectionState(), data)
	return r, message, proofs, err
}

// decide admits or refuses. Who has not proven the token's secret learns nothing of it.
func (d *Door) decide(r wireRequest, message, proofs []byte) (Identity, wireAnswer, error) {
	grant, known := d.Grant(r.Token)
	// Of a token that nobody has the same is computed, so that it takes as long.
	proven := grant.proves(PublicKey(r.TokenKey), message, proofs[:ed25519.SignatureSize])
	if !known || !proven {
		return Identity{}, wireAnswer{}, unknownToken()
	}
	key := PublicKey(r.Key)
	if !key.verifies(purposeJoin, message, proofs[ed25519.SignatureSize:]) {
		return Identity{}, wireAnswer{}, mesh.Refuse(BadSignature, "update sluice on the new machine", "the join request is not signed by the key that it brings")
	}
	bundle, now := d.Bundle(), d.Now()
	if err := grant.Check(r.Role, bundle.Authority.Pin(), now); err != nil {
		return Identity{}, wireAnswer{}, err
	}
	der, err := bundle.Authority.Issue(r.Role, r.Name, key, now)
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
		answer.Bundle = &w
	}
	return id, answer, nil
}
