package trust

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// Protocol is what a TLS connection is for: its ALPN name (RFC 7301). One port serves
// several.
type Protocol string

// The protocols.
const (
	ProtocolSync   Protocol = "sluice-sync/1"   // nodes compare their records
	ProtocolJoin   Protocol = "sluice-join/1"   // who has but a token becomes a member
	ProtocolReturn Protocol = "sluice-return/1" // a node that was away gets what it missed

	// ProtocolAPI is for nodes, operators and viewers that ask a node. It has HTTP/2's own name
	// (RFC 9113), which every gRPC library offers: other programs call with a certificate and
	// nothing of ours.
	ProtocolAPI Protocol = "h2"
)

// clients are the roles that may open a connection for p. Who joins or returns has none:
// it shows no certificate.
func (p Protocol) clients() []Role {
	switch p {
	case ProtocolSync:
		return []Role{RoleNode}
	case ProtocolAPI:
		return roles()
	default:
		return nil
	}
}

func mustBe(id Identity, allowed []Role) error {
	if slices.Contains(allowed, id.Role) {
		return nil
	}
	return mesh.Refuse(WrongRole, "use a certificate of the right role", "%s comes where only %s may", id, list(allowed))
}

func list(allowed []Role) string {
	words := make([]string, len(allowed))
	for i, r := range allowed {
		words[i] = string(r)
	}
	return strings.Join(words, " or ")
}

// plain is what all our TLS has in common: version 1.3 alone, and no tickets, since a
// connection that is taken up again would remember a member that was removed since.
func plain(p Protocol) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{string(p)},
		SessionTicketsDisabled: true,
	}
}

// Server is for the side that is called, where accept are served: each to the roles that
// may call for it. Which one it was is the connection's NegotiatedProtocol, and who
// called is for Peer to say. The certificate and the CA are those of the moment.
func (c *Credentials) Server(accept ...Protocol) *tls.Config {
	outer := plain("")
	outer.NextProtos = nil
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// One name exactly: what is asked of a client follows from it, and TLS would let
		// one that offers none pass.
		if len(hello.SupportedProtos) != 1 || !slices.Contains(accept, Protocol(hello.SupportedProtos[0])) {
			return nil, mesh.Refuse(NoProtocol, "call by a sluice of the same version", "TLS for %.100q is not served here", hello.SupportedProtos)
		}
		return c.server(Protocol(hello.SupportedProtos[0])), nil
	}
	return outer
}

func (c *Credentials) server(p Protocol) *tls.Config {
	cfg := plain(p)
	cfg.Certificates = []tls.Certificate{c.current.Load().chain}
	if p == ProtocolJoin || p == ProtocolReturn {
		return cfg
	}
	cfg.ClientAuth = tls.RequireAnyClientCert // judged below: crypto/tls would want names
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := c.judge(state.PeerCertificates, p.clients())
		return err
	}
	return cfg
}

// Client is for the side that calls node, or any node where node is "". It is for one
// connection: the certificate and the CA are those of the moment.
func (c *Credentials) Client(p Protocol, node mesh.NodeID) *tls.Config {
	cfg := plain(p)
	cfg.Certificates = []tls.Certificate{c.current.Load().chain}
	cfg.InsecureSkipVerify = true // of names, which nodes do not have: VerifyConnection judges
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := c.judge(state.PeerCertificates, []Role{RoleNode})
		if err != nil {
			return err
		}
		if node != "" && id.Node != node {
			return mesh.Refuse(WrongNode, "wait until the nodes' addresses are known again", "node %s answers where node %s was called", id.Node, node)
		}
		return spoken(state, p)
	}
	return cfg
}

// spoken refuses a server that did not say what it speaks, which crypto/tls lets pass.
func spoken(state tls.ConnectionState, p Protocol) error {
	if state.NegotiatedProtocol == string(p) {
		return nil
	}
	return mesh.Refuse(NoProtocol, "call a node of the same version", "the node does not speak %s", p)
}

// Peer says who is at the other end of a connection whose handshake is over. It judges
// anew, so that a connection that outlives a removal can be asked for each request.
func (c *Credentials) Peer(state tls.ConnectionState) (Identity, error) {
	return c.judge(state.PeerCertificates, roles())
}

// RefusedByPeer tells whether err of a handshake or a first read says that the other side
// does not believe this one's certificate: it was removed, or missed a new generation of
// the CA. TLS 1.3 lets the side that calls know only after its own handshake.
func RefusedByPeer(err error) bool {
	remote, ok := errors.AsType[*net.OpError](err)
	// crypto/tls keeps the alert's number to itself; a test holds this text.
	return ok && remote.Op == "remote error" && strings.Contains(remote.Err.Error(), "bad certificate")
}
