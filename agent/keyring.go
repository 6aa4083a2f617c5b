package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The key of gossip changes within a generation of the CA, by command and on a schedule, so that
// who got hold of one reads and says nothing for long. Everybody derives it from the CA's key and
// the keyring's nonce, a record like others: no key is sent.
//
//	rotate -> keyring (record) -> each reads by the new key at once
//	                              keyTurn later each sends by it
//	                              keyKept later the one before is gone
//
// Who was away meanwhile gets the record in an exchange, which needs no key of gossip.

const (
	keyTurn = 3 * time.Second // for the record to reach the others: it takes a second where a third of all packets is lost
	keyKept = time.Minute     // for those who hear of it late
	keyLook = 500 * time.Millisecond
	keyMost = 8 // that are read by at a time; the newest stay
)

// gossipKeys are the keys of gossip of one membership, in the course of time: who joins the same
// generation again begins with the keys of then. Not safe for
// concurrent use.
type gossipKeys struct {
	of     *membership
	nonce  string // that newest is derived from; "": it came with the generation
	newest trust.Secret
	turn   time.Time // from when newest is sent by
	send   trust.Secret
	old    []oldKey // the newest last
}

type oldKey struct {
	key   trust.Secret
	until time.Time
}

// follow takes up what a record says, nil where there is none, which was written so long ago.
// now is monotonic.
func (k *gossipKeys) follow(m *membership, r *mesh.Keyring, age time.Duration, now time.Time) error {
	b := m.bundle
	if k.of != m {
		if err := k.begin(m, r, now); err != nil {
			return err
		}
	}
	if r != nil && r.Nonce != k.nonce {
		before, err := gossipKey(b, r.Before)
		if err != nil {
			return err
		}
		key, err := gossipKey(b, r.Nonce)
		if err != nil {
			return err
		}
		for _, late := range []trust.Secret{before, k.newest, k.send} {
			k.keep(late, now)
		}
		k.nonce, k.newest, k.turn = r.Nonce, key, now
		if age < keyTurn { // of the future too: the other clock, or this one, is wrong
			k.turn = now.Add(keyTurn)
		}
	}
	if !now.Before(k.turn) && k.send != k.newest {
		k.keep(k.send, now)
		k.send = k.newest
	}
	k.old = slices.DeleteFunc(k.old, func(o oldKey) bool { return !now.Before(o.until) })
	return nil
}

// begin takes up a membership. Who joins has no keyring yet, and goes by what it was given. Who had
// one on its disk when it started goes by that: what it was given once may be a key of long ago.
func (k *gossipKeys) begin(m *membership, r *mesh.Keyring, now time.Time) error {
	given, started := m.bundle.Gossip, k.of == nil
	first := given[0]
	if r != nil {
		var err error
		if first, err = gossipKey(m.bundle, r.Before); err != nil {
			return err
		}
	}
	*k = gossipKeys{of: m, newest: first, send: first, turn: now}
	if r == nil || !started {
		for _, key := range given {
			k.keep(key, now)
		}
	}
	return nil
}

// gossipKey is the key of a nonce, or that which came with the generation.
func gossipKey(b trust.Bundle, nonce string) (trust.Secret, error) {
	if nonce == "" {
		return b.Gossip[0], nil
	}
	raw, err := hex.DecodeString(nonce)
	if err != nil {
		return trust.Secret{}, fmt.Errorf("read nonce of the key of gossip: %w", err)
	}
	return b.GossipKey(raw)
}

// keep goes on to read by a key for a while.
func (k *gossipKeys) keep(key trust.Secret, now time.Time) {
	k.old = slices.DeleteFunc(k.old, func(o oldKey) bool { return o.key == key })
	k.old = append(k.old, oldKey{key, now.Add(keyTurn + keyKept)})
	if over := len(k.old) - (keyMost - 2); over > 0 { // send and newest are two more
		k.old = k.old[over:]
	}
}

// keys are all that are read by, the one to send with first.
func (k *gossipKeys) keys() []trust.Secret {
	keys := []trust.Secret{k.send}
	add := func(key trust.Secret) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	add(k.newest)
	for _, o := range slices.Backward(k.old) {
		add(o.key)
	}
	return keys
}

// keyringID is the ID of a generation's keyring.
func keyringID(a *trust.Authority) string {
	pin := a.Pin()
	return hex.EncodeToString(pin[:])[:mesh.IDLength]
}

// keyringLocked is the present generation's keyring and when it was written; nil, and when the
// generation was made, where nobody has rotated the keys of it. The lock is held.
func (c *cluster) keyringLocked(m *membership) (*mesh.Keyring, time.Time) {
	r, ok := c.state.Get(mesh.Key{Kind: mesh.KindKeyring, ID: keyringID(m.bundle.Authority)})
	if !ok || r.Keyring == nil {
		return nil, m.bundle.Authority.Made()
	}
	return r.Keyring, time.UnixMicro(int64(r.Version.Time))
}

// gossipKeysOf are the keys of gossip of a membership as of now. To one that is over nothing
// happens any more.
func (c *cluster) gossipKeysOf(m *membership) ([]trust.Secret, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == inside && c.member != m {
		return m.bundle.Gossip, nil
	}
	r, written := c.keyringLocked(m)
	err := c.keyed.follow(m, r, c.now().Sub(written), time.Now())
	return c.keyed.keys(), err
}

// sharedBundle is what this node gives to who joins or returns: with the keys of gossip of now. An
// error leaves those that came with the generation.
func (c *cluster) sharedBundle(m *membership) trust.Bundle {
	b := m.bundle
	keys, err := c.gossipKeysOf(m)
	if err != nil {
		c.log.Error("the keys of gossip of now are not known", "err", err)
		return b
	}
	b.Gossip = keys
	return b
}

// rotateKeys gives the cluster another key of gossip, and tells its name.
func (c *cluster) rotateKeys() (name string, err error) {
	_, err = c.update(func(*mesh.Snapshot) ([]mesh.Record, error) {
		nonce := make([]byte, mesh.NonceLength/2)
		rand.Read(nonce) // never fails: it ends the program where there is no randomness
		k := &mesh.Keyring{ID: keyringID(c.member.bundle.Authority), Nonce: hex.EncodeToString(nonce)}
		if have, _ := c.keyringLocked(c.member); have != nil {
			k.Before = have.Nonce
		}
		key, err := gossipKey(c.member.bundle, k.Nonce)
		name = key.Name()
		return []mesh.Record{mesh.KeyringRecord(k)}, err
	})
	return name, err
}

// rekeys keeps gossip's keys at what the records say, until ctx ends.
func (c *cluster) rekeys(ctx context.Context) {
	look := time.NewTicker(keyLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		case <-c.rekeyed:
		}
		if err := c.rekey(); err != nil {
			c.log.Error("the keys of gossip were not changed", "err", err)
		}
	}
}

// rekey sets gossip's keys.
func (c *cluster) rekey() error {
	m, _ := c.membership()
	if m == nil {
		return nil
	}
	keys, err := c.gossipKeysOf(m)
	c.mu.Lock()
	g := c.members
	current := c.member == m
	c.mu.Unlock()
	if err != nil || g == nil || !current {
		return err
	}
	if err := g.SetKeys(keyBytes(keys)...); err != nil {
		return fmt.Errorf("set the keys of gossip: %w", err)
	}
	return nil
}

func keyBytes(keys []trust.Secret) [][]byte {
	raw := make([][]byte, len(keys))
	for i := range keys {
		raw[i] = keys[i][:]
	}
	return raw
}

// refresh keeps up what this node says of itself and what it says alone.
func (c *cluster) refresh(snap *mesh.Snapshot, m *membership) error {
	c.heal()
	if snap.Node(c.own.ID) == nil {
		return nil
	}
	// A new certificate may have come while the disk took no record.
	_, err := c.update(c.refreshOwn)
	if mesh.ReasonOf(err) == NoCluster {
		return nil // it leaves
	}
	return errors.Join(err, c.rotateInTime(snap, m))
}

// rotateInTime rotates the keys of gossip where it is time and this node's turn: the living go in
// the order of their IDs.
func (c *cluster) rotateInTime(snap *mesh.Snapshot, m *membership) error {
	if c.keyPeriod <= 0 {
		return nil
	}
	c.mu.Lock()
	_, written := c.keyringLocked(m)
	believed := c.isBelieved(snap)
	c.mu.Unlock()
	if !believed || c.now().Sub(written) < c.keyPeriod+c.rankWait(snap) {
		return nil
	}
	_, err := c.rotateKeys()
	if mesh.ReasonOf(err) == NoCluster {
		return nil // it leaves
	}
	return err
}

// shownKey is what may be seen of a key.
type shownKey struct {
	id            string
	sends, newest bool
}

// shownKeys are the keys that this node reads by, the CA's generation, and when the newest was made.
func (c *cluster) shownKeys() (shown []shownKey, generation uint32, made time.Time, err error) {
	m, _ := c.membership()
	if m == nil {
		return nil, 0, made, noCluster()
	}
	keys, err := c.gossipKeysOf(m)
	if err != nil {
		return nil, 0, made, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, made = c.keyringLocked(m)
	for i, key := range keys {
		shown = append(shown, shownKey{key.Name(), i == 0, key == c.keyed.newest})
	}
	return shown, m.bundle.Authority.Generation(), made, nil
}
