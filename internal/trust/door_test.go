package trust

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// speak sends the door what it likes over TLS and gives the answer and the door's word.
func (c *testCluster) speak(t *testing.T, say func(*tls.Conn) error) (wireAnswer, served) {
	t.Helper()
	client, server := loopback(t)
	done := c.open(t.Context(), server)
	session := tls.Client(client, c.node.Client(ProtocolJoin, ""))
	if err := say(session); err != nil {
		t.Fatal(err)
	}
	var answer wireAnswer
	if data, err := readMessage(session, answerLimit); err == nil {
		answer, _ = parseAnswer(data)
	}
	client.Close()
	return answer, <-done
}

func TestDoorBoundsWhatItReads(t *testing.T) {
	c := newTestCluster(t)
	request := func(edit func(map[string]any)) []byte {
		key := testKey(5).Public()
		m := map[string]any{"v": 1, "token": "0011223344556677", "tokenKey": key[:], "key": key[:], "role": "node"}
		edit(m)
		data, _ := json.Marshal(m)
		return data
	}
	both := func(request, proofs []byte) func(*tls.Conn) error {
		return func(s *tls.Conn) error { return errors.Join(writeMessage(s, request), writeMessage(s, proofs)) }
	}
	proofs := make([]byte, proofsSize)
	for name, say := range map[string]struct {
		say  func(*tls.Conn) error
		want mesh.Reason
	}{
		"1 GiB announced":     {func(s *tls.Conn) error { _, err := s.Write([]byte{0x40, 0, 0, 0}); return err }, BadMessage},
		"4 GiB announced":     {func(s *tls.Conn) error { _, err := s.Write([]byte{0xff, 0xff, 0xff, 0xff}); return err }, BadMessage},
		"no JSON":             {both([]byte("hello"), proofs), BadMessage},
		"nothing":             {both(nil, nil), BadMessage},
		"a version to come":   {both(request(func(m map[string]any) { m["v"] = 2 }), proofs), NewerVersion},
		"a field to come":     {both(request(func(m map[string]any) { m["later"] = 2 }), proofs), TokenUnknown},
		"a short key":         {both(request(func(m map[string]any) { m["key"] = []byte{1} }), proofs), BadMessage},
		"a short token key":   {both(request(func(m map[string]any) { m["tokenKey"] = nil }), proofs), BadMessage},
		"a role to come":      {both(request(func(m map[string]any) { m["role"] = "god" }), proofs), WrongRole},
		"one signature":       {both(request(func(map[string]any) {}), proofs[1:]), BadMessage},
		"long signatures":     {both(request(func(map[string]any) {}), make([]byte, proofsSize+1)), BadMessage},
		"signatures of zeros": {both(request(func(map[string]any) {}), proofs), TokenUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			answer, s := c.speak(t, say.say)
			wantReason(t, s.err, say.want)
			if answer.Refusal == nil || answer.Refusal.Reason != say.want || answer.Bundle != nil {
				t.Errorf("answered %+v", answer)
			}
		})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, err := readMessage(strings.NewReader("\x40\x00\x00\x00"), requestLimit)
		wantReason(t, err, BadMessage)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d bytes for what was only announced", got)
	}
}

// A door opens to those who called for it, and not to a connection for records.
func TestDoorIsNoOtherProtocol(t *testing.T) {
	c := newTestCluster(t)
	client, server := loopback(t)
	done := c.open(t.Context(), server)
	session := tls.Client(client, member(t, c.bundle.Authority, 2).Client(ProtocolSync, ""))
	if err := session.Handshake(); err != nil {
		t.Fatal(err)
	}
	wantReason(t, (<-done).err, NoProtocol)
}

// Who says nothing, on either side and at any point, costs JoinTimeout and no goroutine.
func TestJoinEndsWithSilence(t *testing.T) {
	for name, stage := range map[string]func(t *testing.T, c *testCluster) error{
		"a server that says nothing": func(t *testing.T, c *testCluster) error {
			t.Helper()
			client, server := net.Pipe()
			defer server.Close()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			_, err := Join(t.Context(), client, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)})
			return err
		},
		"a server that does not answer": func(t *testing.T, c *testCluster) error {
			t.Helper()
			client, server := net.Pipe()
			defer server.Close()
			go func() { _, _ = io.Copy(io.Discard, tls.Server(server, c.node.Server(ProtocolJoin))) }()
			_, err := Join(t.Context(), client, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)})
			return err
		},
		"a client that says nothing": func(t *testing.T, c *testCluster) error {
			t.Helper()
			client, server := net.Pipe()
			defer client.Close()
			return (<-c.open(t.Context(), server)).err
		},
		"a client that asks for nothing": func(t *testing.T, c *testCluster) error {
			t.Helper()
			client, server := net.Pipe()
			defer client.Close()
			done := c.open(t.Context(), server)
			if err := tls.Client(client, c.node.Client(ProtocolJoin, "")).Handshake(); err != nil {
				t.Error(err)
			}
			return (<-done).err
		},
		"a client that trickles": func(t *testing.T, c *testCluster) error {
			t.Helper()
			client, server := net.Pipe()
			defer client.Close()
			done := c.open(t.Context(), server)
			session := tls.Client(client, c.node.Client(ProtocolJoin, ""))
			trickled := make(chan struct{})
			go func() {
				defer close(trickled)
				_, _ = session.Write(binary.BigEndian.AppendUint32(nil, requestLimit))
				for range requestLimit {
					if _, err := session.Write([]byte{' '}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			t.Cleanup(func() { <-trickled })
			return (<-done).err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if err := stage(t, newTestCluster(t)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("ended with %v", err)
				}
				if got := time.Since(began); got != JoinTimeout {
					t.Errorf("ended after %v", got)
				}
			})
		})
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t)
		ctx, cancel := context.WithCancel(t.Context())
		client, server := net.Pipe()
		defer client.Close()
		done := c.open(ctx, server)
		time.AfterFunc(time.Second, cancel)
		if err := (<-done).err; !errors.Is(err, context.Canceled) {
			t.Errorf("the door: %v", err)
		}
		client2, server2 := net.Pipe()
		defer server2.Close()
		if _, err := Join(ctx, client2, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)}); !errors.Is(err, context.Canceled) {
			t.Errorf("the client: %v", err)
		}
	})
}
