package gossip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

type side struct {
	conn net.Conn
	id   mesh.NodeID
	err  error
}

// protect runs both sides; the connection is closed where one fails, as its owner does.
func protect(ctx context.Context, dial, accept Secure, here, there net.Conn) (dialled, accepted side) {
	done := make(chan side)
	go func() {
		conn, id, err := accept.Accept(ctx, there)
		if err != nil {
			there.Close()
		}
		done <- side{conn, id, err}
	}()
	conn, id, err := dial.Dial(ctx, here)
	if err != nil {
		here.Close()
	}
	return side{conn, id, err}, <-done
}

func TestKeyedCarries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		here, there := net.Pipe()
		a, b := protect(t.Context(), keyed{nodeID(1), key(1)}, keyed{nodeID(2), key(1)}, here, there)
		if a.err != nil || b.err != nil || a.id != nodeID(2) || b.id != nodeID(1) {
			t.Fatal(a, b)
		}
		text := bytes.Repeat([]byte("sluice"), rapid.IntRange(1, 10_000).Draw(t, "length"))
		go func() { a.conn.Write(text); a.conn.Close() }()
		if got, err := io.ReadAll(b.conn); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%d of %d bytes, %v", len(got), len(text), err)
		}
	})
}

func TestKeyedRefusesAnotherKey(t *testing.T) {
	here, there := net.Pipe()
	a, b := protect(t.Context(), keyed{nodeID(1), key(1)}, keyed{nodeID(2), key(2)}, here, there)
	if a.err == nil || !errors.Is(b.err, errKeyed) {
		t.Error(a.err, b.err)
	}
}

func TestKeyedEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, half := range []func(net.Conn) error{
			func(c net.Conn) error { _, _, err := keyed{nodeID(1), key(1)}.Dial(ctx, c); return err },
			func(c net.Conn) error { _, _, err := keyed{nodeID(1), key(1)}.Accept(ctx, c); return err },
		} {
			here, there := net.Pipe()
			if err := half(here); err == nil {
				t.Error("a side that hears nothing succeeded")
			}
			here.Close()
			there.Close()
		}
	})
}

// tap keeps what is written, and changes it.
type tap struct {
	net.Conn
	seen []byte
	edit func(frame int, b []byte) []byte
	n    int
}

func (t *tap) Write(b []byte) (int, error) {
	t.seen = append(t.seen, b...)
	out := b
	if t.edit != nil {
		out = t.edit(t.n, bytes.Clone(b))
	}
	t.n++
	if _, err := t.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// What was recorded opens nothing again, and what was changed on the way is not read.
func TestKeyedAgainstTheWire(t *testing.T) {
	t.Run("replayed", func(t *testing.T) {
		here, there := net.Pipe()
		recorded := &tap{Conn: here}
		if a, b := protect(t.Context(), keyed{nodeID(1), key(1)}, keyed{nodeID(2), key(1)}, recorded, there); a.err != nil || b.err != nil {
			t.Fatal(a, b)
		}
		again, there := net.Pipe()
		go func() {
			go io.Copy(io.Discard, again)
			again.Write(recorded.seen)
		}()
		if _, _, err := (keyed{nodeID(2), key(1)}).Accept(t.Context(), there); !errors.Is(err, errKeyed) {
			t.Error(err)
		}
		again.Close()
	})
	for name, edit := range map[string]func(int, []byte) []byte{
		"flipped":   func(_ int, b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut":       func(_ int, b []byte) []byte { b[1]--; return b[:len(b)-1] },
		"two times": func(_ int, b []byte) []byte { return append(b, b...) },
	} {
		t.Run(name, func(t *testing.T) {
			here, there := net.Pipe()
			wire := &tap{Conn: here}
			a, b := protect(t.Context(), keyed{nodeID(1), key(1)}, keyed{nodeID(2), key(1)}, wire, there)
			if a.err != nil || b.err != nil {
				t.Fatal(a, b)
			}
			wire.edit = edit
			go func() { a.conn.Write([]byte("text")); a.conn.Close() }()
			if got, err := io.ReadAll(b.conn); !errors.Is(err, errKeyed) || len(got) > len("text") {
				t.Errorf("%q, %v", got, err)
			}
			there.Close()
		})
	}
}

func FuzzKeyed(f *testing.F) {
	f.Add(append([]byte{keyedByte}, make([]byte, 200)...))
	f.Add([]byte{tlsByte, 3, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &script{says: bytes.NewReader(data)}
		if _, _, err := (keyed{nodeID(1), key(1)}).Accept(t.Context(), s); err == nil {
			t.Fatal("a stream without the key was taken")
		}
		c, err := keyed{nodeID(1), key(1)}.wrap(&script{says: bytes.NewReader(data)}, nil, "out", "in")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); len(got) > 0 || err == nil && len(data) > 0 {
			t.Fatalf("%x was read, %v", got, err)
		}
	})
}
