package agent

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// Nothing that a removed node writes is admitted, however lately its certificate was found good.
func TestExpelledIsNotAdmitted(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, out := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	c := a.cluster(t, first, nil, out.self())
	if _, err := c.believe(c.member); err != nil {
		t.Fatal(err)
	}
	record := out.self()
	if err := c.Admit(record); err != nil {
		t.Fatal(err)
	}
	if _, err := c.removeNode("n2"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []mesh.Record{record, out.writes(mesh.RemovalRecord(&mesh.Removal{Node: a.ID(), Name: "n1"}))} {
		if err := c.Admit(r); mesh.ReasonOf(err) != NodeRemoved {
			t.Errorf("a %s by it: %v", r.Kind, err)
		}
	}
}

// An exchange that runs while its other end is removed brings nothing more, either way.
func TestExchangeEndsWithRemoval(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, out := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	for name, calls := range map[string]bool{"it called": true, "it was called": false} {
		t.Run(name, func(t *testing.T) {
			c, other := a.cluster(t, first, nil, out.self()), out.cluster(t, first, nil, a.self())
			ours, theirs := c.protect(c.member, must(c.believe(c.member))), other.protect(other.member, must(other.believe(other.member)))
			if calls {
				ours, theirs = theirs, ours
			}
			near, far := meet(t, ours, theirs)
			if calls {
				near, far = far, near
			}
			got := make([]byte, 8)
			go func() { _, _ = far.Write([]byte("before")) }() // what was read is looked at
			if n, err := near.Read(got); err != nil || string(got[:n]) != "before" {
				t.Fatalf("before: %q, %v", got[:n], err)
			}
			if _, err := c.removeNode("n2"); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = far.Write([]byte("after")) }()
			if n, err := near.Read(got); mesh.ReasonOf(err) != NodeRemoved || n != 0 {
				t.Errorf("after: %d bytes, %v", n, err)
			}
			if _, err := near.Write([]byte("after")); mesh.ReasonOf(err) != NodeRemoved {
				t.Errorf("to it: %v", err)
			}
		})
	}
}

// meet is both ends of a connection for records, the caller's first.
func meet(t *testing.T, caller, called protection) (near, far net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _, err := called.Accept(context.Background(), b)
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	near, _, err := caller.Dial(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return near, <-accepted
}

// Whom a cluster removed that this node did not get into is nobody in the next one.
func TestExpelledOfAnotherCluster(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, x := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	c := newCluster(clusterConfig{
		Store: &mediumDisk{&Medium{key: a.Key}, func() error { return nil }}, Own: *a.node, Key: a.Key, Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}, &saved{ID: a.ID(), Key: a.Key})
	if err := c.begin(); err != nil {
		t.Fatal(err)
	}
	c.Merge([]mesh.Record{x.writes(mesh.RemovalRecord(&mesh.Removal{Node: x.ID(), Name: "n2"}))})
	c.abandon()
	if err := c.expelled.admit(trust.Identity{Role: trust.RoleNode, Node: x.ID()}); err != nil {
		t.Error(err)
	}
}
