package trust

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// JoinTimeout is how long one exchange may take, on either side, from the first byte of
// TLS to the last of the answer.
const JoinTimeout = 10 * time.Second

// Joining is who wants to become a member.
type Joining struct {
	Token JoinToken
	Key   Key
	Name  string // of an operator or viewer; a node has its key's ID
	Now   func() time.Time
}

// Admission is what a new member gets.
type Admission struct {
	Certificate []byte // DER
	Authority   *Authority
	Gossip      []Secret // of a node; nil for an operator or viewer
	Trail       Trail    // of a node, to Authority
}

// Join asks the node at the other end of conn for admission. It returns the cluster's
// refusal as it is, WrongCluster where another CA answers than the one that the token
// pins, or an error of conn. Nothing is sent before the node has proven to be one. conn
// stays open and is of no more use.
func Join(ctx context.Context, conn net.Conn, j Joining) (*Admission, error) {
	ctx, cancel := context.WithTimeout(ctx, JoinTimeout)
	defer cancel()
	defer interrupt(ctx, conn)()
	a, err := join(ctx, conn, j)
	if err != nil && ctx.Err() != nil {
		// The deadline on conn says only that time was over.
		return nil, fmt.Errorf("ask for admission: %w", ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("ask for admission: %w", err)
	}
	return a, nil
}

// interrupt ends what reads and writes conn when ctx ends. The returned function ends the
// watch, and afterwards nothing touches conn.
func interrupt(ctx context.Context, conn net.Conn) func() {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = conn.SetDeadline(time.Unix(1, 0)) // a conn that is closed already needs none
	})
	return func() {
		if !stop() {
			<-ended
		}
	}
}

func join(ctx context.Context, conn net.Conn, j Joining) (*Admission, error) {
	var authority *Authority
	cfg := plain(ProtocolJoin)
	cfg.InsecureSkipVerify = true // there is no CA yet, but its pin: VerifyConnection judges
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		var err error
		authority, err = pinned(state.PeerCertificates, j.Token.Pin, j.Now())
		if err != nil {
			return err
		}
		return spoken(state, ProtocolJoin)
	}
	session := tls.Client(conn, cfg)
	if err := session.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := sendRequest(session, j); err != nil {
		return nil, err
	}
	data, err := readMessage(session, answerLimit)
	if err != nil {
		return nil, err
	}
	answer, err := parseAnswer(data)
	if err != nil {
		return nil, err
	}
	if answer.Refusal != nil {
		return nil, answer.Refusal.err()
	}
	return answer.admission(authority, j)
}

// pinned gives the CA that the server brought, if it is the one of the token and vouches
// for the server as a node.
func pinned(certs []*x509.Certificate, pin Pin, now time.Time) (*Authority, error) {
	a, err := brought(certs, now)
	if err != nil {
		return nil, err
	}
	got := a.Pin()
	if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
		return nil, mesh.Refuse(WrongCluster, doNewToken,
			"the node is of another cluster than the token, or the token was made before a node was removed")
	}
	return a, nil
}

func sendRequest(session *tls.Conn, j Joining) error {
	tokenKey, key := j.Token.key(), j.Key.Public()
	tokenPublic := tokenKey.Public()
	request := wireRequest{
		Version: formatVersion, Token: j.Token.ID, TokenKey: tokenPublic[:], Key: key[:], Role: j.Token.Role, Name: j.Name,
	}
	return ask(session, request, func(message []byte) []byte {
		return append(tokenKey.signed(purposeToken, message), j.Key.signed(purposeJoin, message)...)
	})
}

// ask sends a request and the signatures over it and the connection: what readAsked takes.
func ask(session *tls.Conn, request any, prove func(message []byte) []byte) error {
	text, err := encode(request)
	if err != nil {
		return err
	}
	message, err := bound(session.ConnectionState(), text)
	if err != nil {
		return err
	}
	if err := writeMessage(session, text); err != nil {
		return err
	}
	return writeMessage(session, prove(message))
}

// admission takes the answer for what the token promised, or refuses it.
func (w wireAnswer) admission(a *Authority, j Joining) (*Admission, error) {
	id, err := a.Identify(w.Certificate, j.Now())
	if err != nil {
		return nil, err
	}
	if id.Key != j.Key.Public() || id.Role != j.Token.Role || id.Name != j.Name && id.Role != RoleNode {
		return nil, badIdentity("it is for %s, which was not asked for", id)
	}
	admission := &Admission{Certificate: w.Certificate, Authority: a}
	if id.Role != RoleNode {
		return admission, nil
	}
	if w.Bundle == nil {
		return nil, damaged("the answer to the join request", "the CA's key is missing")
	}
	b, err := w.Bundle.bundle()
	if err != nil {
		return nil, err
	}
	if b.Authority.Pin() != a.Pin() {
		return nil, badAuthority("it is another than the token's")
	}
	admission.Authority, admission.Gossip = b.Authority, b.Gossip
	admission.Trail, err = w.Trail.trail(a)
	return admission, err
}

// refusalOf is what the other side may be told of err: refusals alone; nil for others.
func refusalOf(err error) *wireRefusal {
	r, ok := errors.AsType[*mesh.Refusal](err)
	if !ok {
		return nil
	}
	return &wireRefusal{Reason: r.Reason, Why: r.Why, Do: r.Do}
}
