package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

func nonce(c string) string { return strings.Repeat(c, mesh.NonceLength) }

// At every moment what one node sends by another one reads by, which heard of the rotation at
// another time, as long as that is within keyTurn; and what is over is gone.
func TestKeysOverlap(t *testing.T) {
	bundle := must(trust.NewBundle(time.Now()))
	m := &membership{bundle: bundle}
	began := time.Now()
	records := []struct {
		at time.Duration
		k  *mesh.Keyring
	}{
		{10 * time.Second, &mesh.Keyring{Nonce: nonce("1")}},
		{12 * time.Second, &mesh.Keyring{Nonce: nonce("2"), Before: nonce("1")}},
		{200 * time.Second, &mesh.Keyring{Nonce: nonce("3"), Before: nonce("2")}},
	}
	node := func(late time.Duration) func(now time.Duration) []trust.Secret {
		var k gossipKeys
		return func(now time.Duration) []trust.Secret {
			var have *mesh.Keyring
			age := time.Hour
			for _, r := range records {
				if now >= r.at+late {
					have, age = r.k, now-r.at
				}
			}
			if err := k.follow(m, have, age, began.Add(now)); err != nil {
				t.Fatal(err)
			}
			return k.keys()
		}
	}
	soon, late := node(0), node(keyTurn-time.Second)
	for now := time.Duration(0); now < 5*time.Minute; now += 500 * time.Millisecond {
		a, b := soon(now), late(now)
		if !slices.Contains(b, a[0]) || !slices.Contains(a, b[0]) {
			t.Fatalf("after %v one sends by what the other does not read by", now)
		}
		if now > 100*time.Second && now < 200*time.Second && (len(a) != 1 || a[0] != must(gossipKey(bundle, nonce("2")))) {
			t.Fatalf("after %v there are %d keys, and one should be left", now, len(a))
		}
	}
	if len(late(10*time.Minute)) != 1 {
		t.Error("keys of before are kept for ever")
	}
}

// However often keys are rotated, few are kept, and the newest are.
func TestKeysAreFew(t *testing.T) {
	bundle, now := must(trust.NewBundle(time.Now())), time.Now()
	var k gossipKeys
	m := &membership{bundle: bundle}
	before := ""
	for i := range 100 {
		next := nonce(string("0123456789abcdef"[i%16]))
		if err := k.follow(m, &mesh.Keyring{Nonce: next, Before: before}, 0, now); err != nil {
			t.Fatal(err)
		}
		before, now = next, now.Add(10*time.Millisecond)
		if keys := k.keys(); len(keys) > keyMost || !slices.Contains(keys, must(gossipKey(bundle, next))) {
			t.Fatalf("%d keys after %d rotations", len(keys), i+1)
		}
	}
	if _, err := (trust.Bundle{Authority: bundle.Authority, Gossip: k.keys()}).Marshal(); err != nil {
		t.Errorf("nobody can join: %v", err)
	}
}

// Who joins the same generation again has the keys that it was given then, and not those of its
// former time.
func TestKeysOfAnotherTime(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	c := newKeyed(1, first.Authority).cluster(t, first, gossip.Host())
	before := must(c.gossipKeysOf(c.member))
	again := &membership{bundle: trust.Bundle{Authority: first.Authority, Gossip: []trust.Secret{trust.NewSecret()}}}
	c.member = again
	if keys := must(c.gossipKeysOf(again)); !slices.Equal(keys, again.bundle.Gossip) || slices.Contains(keys, before[0]) {
		t.Error("it gossips by a key that nobody has any more")
	}
}

// What another door than that of now asks for changes nothing.
func TestKeysOfAFormerMembership(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	n := newKeyed(1, first.Authority)
	c := n.cluster(t, first, nil)
	former := c.member
	next, _ := n.rotates(first)
	c.member = &membership{bundle: next}
	if _, err := c.rotateKeys(); err != nil {
		t.Fatal(err)
	}
	before := must(c.gossipKeysOf(c.member))
	if shared := c.sharedBundle(former); !slices.Equal(shared.Gossip, first.Gossip) {
		t.Error("a former membership has other keys than it had")
	}
	if now := must(c.gossipKeysOf(c.member)); !slices.Equal(now, before) {
		t.Error("the keys of now are others")
	}
}

// Who starts again goes by the keys on its disk, and the key with which it came in, which was
// rotated away long ago, is read by no more.
func TestKeysAfterAStart(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	n := newKeyed(1, first.Authority)
	ring := &mesh.Keyring{ID: keyringID(first.Authority), Nonce: nonce("9"), Before: nonce("8")}
	for age, want := range map[time.Duration][]string{0: {"8", "9"}, 10 * time.Hour: {"9", "8"}} {
		c := n.cluster(t, first, nil, n.writes(mesh.KeyringRecord(ring)))
		later := time.Now().Add(age)
		c.now = func() time.Time { return later }
		keys := must(c.gossipKeysOf(c.member))
		if len(keys) != 2 || keys[0] != must(gossipKey(first, nonce(want[0]))) || keys[1] != must(gossipKey(first, nonce(want[1]))) {
			t.Errorf("%s after the last rotation it has %d keys, or others", age, len(keys))
		}
	}
}

// Who has but an old key of gossip cannot make the next one, and another generation has others.
func TestKeysAreOfOneGeneration(t *testing.T) {
	bundle := must(trust.NewBundle(time.Now()))
	next := must(bundle.Next(time.Now()))
	one, two := must(gossipKey(bundle, nonce("1"))), must(gossipKey(next, nonce("1")))
	if one == two || one == bundle.Gossip[0] {
		t.Error("a key does not hang on the CA's key")
	}
	public := trust.Bundle{Authority: bundle.Authority.Public(), Gossip: bundle.Gossip}
	if _, err := gossipKey(public, nonce("1")); mesh.ReasonOf(err) != trust.NotIssuer {
		t.Errorf("without the CA's key: %v", err)
	}
}

// A node that was away while the keys were rotated, its own long gone, is found again by the
// exchange of records, and goes on with the keys of now.
func TestRotateKeysWhileAway(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	one, two := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	a, away := one.cluster(t, first, gossip.Host(), two.self()), two.cluster(t, first, gossip.Host(), one.self())
	if err := a.resume(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := a.rotateKeys(); err != nil {
			t.Fatal(err)
		}
		if err := a.rekey(); err != nil {
			t.Fatal(err)
		}
	}
	a.mu.Lock() // as if a minute had passed
	a.keyed.send, a.keyed.old = a.keyed.newest, nil
	a.mu.Unlock()
	followed(t, a)
	if err := away.resume(); err != nil {
		t.Fatal(err)
	}
	followed(t, away)
	eventually(t, "they see each other by the newest keys", func() bool {
		return a.liveness(two.ID()).alive && away.liveness(one.ID()).alive && slices.Equal(sent(a), sent(away))
	})
	// Who joins by it gets the same.
	if shared := away.sharedBundle(away.member); !slices.Equal(shared.Gossip[:1], sent(a)) {
		t.Error("who joins gets other keys")
	}
}

// followed lets a cluster follow its keys until the test ends.
func followed(t *testing.T, c *cluster) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = (&rotations{cluster: c}).run(ctx) }() // it ends with ctx, without an error
	t.Cleanup(func() { cancel(); <-done })
}

func sent(c *cluster) []trust.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return []trust.Secret{c.keyed.send}
}

// The first living node in the order of IDs rotates when it is time, and not before.
func TestKeysAreRotatedInTime(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	n := newKeyed(1, first.Authority)
	c := n.cluster(t, first, gossip.Host())
	now := time.Now()
	c.now = func() time.Time { return now }
	m, snap := c.membership()
	look := func() string {
		t.Helper()
		if err := c.refresh(snap, m); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if k, _ := c.keyringLocked(m); k != nil {
			return k.Nonce
		}
		return ""
	}
	now = now.Add(24 * time.Hour)
	if look() != "" {
		t.Error("rotated where it is to be done by command alone")
	}
	c.keyPeriod = 12 * time.Hour
	one := look()
	if one == "" {
		t.Fatal("not rotated")
	}
	now = now.Add(11 * time.Hour)
	if look() != one {
		t.Error("rotated too soon")
	}
	now = now.Add(2 * time.Hour)
	if two := look(); two == one {
		t.Error("not rotated again")
	}
}
