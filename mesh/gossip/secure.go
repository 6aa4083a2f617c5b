package gossip

import (
	"context"
	"errors"
	"net"

	"github.com/sluice-mesh/sluice/mesh"
)

// Secure protects the streams that nodes exchange records over, and tells who is at the
// other end. memberlist's own packets and streams are sealed by Config.Key and pass by it.
// Implementations are safe for concurrent use. Both methods return when ctx ends, leave
// closing conn to the caller where they fail, and give a connection whose Close closes
// conn.
type Secure interface {
	// Dial takes an outgoing connection. What it sends must begin with TLS's handshake
	// byte (0x16): by that the other side tells it from memberlist.
	Dial(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error)
	// Accept takes an incoming one, that byte included. A connection that is of the same
	// protection and for another purpose it serves itself, as long as ctx lets it, and
	// returns ErrServed.
	Accept(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error)
}

// ErrServed is Secure.Accept's answer where the connection was not for records and has been
// dealt with.
var ErrServed = errors.New("the connection was for something else, and has been served")

func isServed(err error) bool { return errors.Is(err, ErrServed) }

// The first bytes by which incoming streams are told apart.
const (
	tlsByte   = 0x16 // a TLS handshake record (RFC 8446, 5.1)
	keyedByte = 0x53 // keyed's hello
)
