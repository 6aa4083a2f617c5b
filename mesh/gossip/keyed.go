package gossip

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// keyed is the Secure of a cluster whose nodes have nothing but one key: who has it is
// believed whatever ID it gives. Each side sends a random number; a key for each direction
// comes from both numbers and the cluster's key, so that what was recorded opens nothing
// again, and each frame is sealed with AES-256-GCM under its own count.
type keyed struct {
	self mesh.NodeID
	key  []byte
}

const (
	keyedRandom = 32
	keyedFrame  = 16 << 10 // bytes of clear text in one frame
	keyedLength = 2        // bytes before a frame: the length of its sealed text
)

var errKeyed = errors.New("a frame was not sealed with this cluster's key")

// Dial is Secure's.
func (s keyed) Dial(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	defer bound(ctx, conn)()
	hello := append([]byte{keyedByte}, randomBytes()...)
	if _, err := conn.Write(hello); err != nil {
		return nil, "", fmt.Errorf("begin a sealed stream: %w", err)
	}
	answer := make([]byte, keyedRandom)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, "", fmt.Errorf("begin a sealed stream: %w", err)
	}
	sealed, err := s.wrap(conn, append(hello[1:], answer...), "to server", "to client")
	if err != nil {
		return nil, "", err
	}
	if _, err := sealed.Write([]byte(s.self)); err != nil {
		return nil, "", fmt.Errorf("name this node on a sealed stream: %w", err)
	}
	id, err := sealed.readID()
	return sealed, id, err
}

// Accept is Secure's.
func (s keyed) Accept(ctx context.Context, conn net.Conn) (net.Conn, mesh.NodeID, error) {
	defer bound(ctx, conn)()
	hello := make([]byte, 1+keyedRandom)
	if _, err := io.ReadFull(conn, hello); err != nil {
		return nil, "", fmt.Errorf("take a sealed stream: %w", err)
	}
	if hello[0] != keyedByte {
		return nil, "", mesh.Refuse(UnknownVersion, "run the same version of sluice on all nodes", "a stream begins with %#x", hello[0])
	}
	answer := randomBytes()
	if _, err := conn.Write(answer); err != nil {
		return nil, "", fmt.Errorf("take a sealed stream: %w", err)
	}
	sealed, err := s.wrap(conn, append(hello[1:], answer...), "to client", "to server")
	if err != nil {
		return nil, "", err
	}
	id, err := sealed.readID()
	if err != nil {
		return nil, "", err
	}
	if _, err := sealed.Write([]byte(s.self)); err != nil {
		return nil, "", fmt.Errorf("name this node on a sealed stream: %w", err)
	}
	return sealed, id, nil
}

func randomBytes() []byte {
	b := make([]byte, keyedRandom)
	rand.Read(b) // never fails: it ends the program where there is no randomness
	return b
}

// bound makes conn fail when ctx ends, until the function that it returns is called.
func bound(ctx context.Context, conn net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func (s keyed) wrap(conn net.Conn, salt []byte, out, in string) (*keyedConn, error) {
	c := &keyedConn{Conn: conn}
	for _, d := range []struct {
		way  *cipher.AEAD
		name string
	}{{&c.out, out}, {&c.in, in}} {
		key, err := hkdf.Key(sha256.New, s.key, salt, "sluice sealed stream "+d.name, KeySize)
		if err != nil {
			return nil, fmt.Errorf("make a stream's key: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("make a stream's key: %w", err)
		}
		if *d.way, err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("make a stream's key: %w", err)
		}
	}
	return c, nil
}

// keyedConn may be read by one goroutine and written by another.
type keyedConn struct {
	net.Conn
	out, in     cipher.AEAD
	sent, taken uint64 // frames, which are the nonces
	rest        []byte // opened, not yet read
}

func nonce(count uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4, 12), count) }

// Write seals b in frames.
func (c *keyedConn) Write(b []byte) (int, error) {
	done := 0
	for part := range slices.Chunk(b, keyedFrame) {
		length := binary.BigEndian.AppendUint16(nil, uint16(len(part)+c.out.Overhead()))
		frame := c.out.Seal(slices.Clone(length), nonce(c.sent), part, length)
		if _, err := c.Conn.Write(frame); err != nil {
			return done, err
		}
		c.sent++
		done += len(part)
	}
	return done, nil
}

// Read opens the next frame where none is left.
func (c *keyedConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for len(c.rest) == 0 {
		if err := c.open(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *keyedConn) open() error {
	length := make([]byte, keyedLength)
	if _, err := io.ReadFull(c.Conn, length); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint16(length))
	if size < c.in.Overhead() || size > keyedFrame+c.in.Overhead() {
		return errKeyed
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(c.Conn, frame); err != nil {
		return fmt.Errorf("read a sealed frame: %w", err)
	}
	text, err := c.in.Open(frame[:0], nonce(c.taken), frame, length)
	if err != nil {
		return errKeyed
	}
	c.taken++
	c.rest = text
	return nil
}

// readID takes the first frame, which is the other side's ID.
func (c *keyedConn) readID() (mesh.NodeID, error) {
	if err := c.open(); err != nil {
		return "", fmt.Errorf("learn who is at the other end: %w", err)
	}
	id := mesh.NodeID(c.rest)
	c.rest = nil
	if err := id.Validate(); err != nil {
		return "", fmt.Errorf("learn who is at the other end: %w", err)
	}
	return id, nil
}
