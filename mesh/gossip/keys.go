package gossip

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// SetKeys changes the keys of packets and streams of members, of KeySize bytes each: the first is
// used to send, all of them to read. Others are forgotten. Exchanges of records have nothing to do
// with it. It refuses a key of another length (BadValue).
func (g *Gossip) SetKeys(keys ...[]byte) error {
	if err := validKeys(keys); err != nil {
		return err
	}
	g.keying.Lock()
	defer g.keying.Unlock()
	for _, key := range keys {
		if err := g.ring.AddKey(key); err != nil {
			return fmt.Errorf("add key of gossip: %w", err)
		}
	}
	if err := g.ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("use key of gossip: %w", err)
	}
	for _, have := range g.ring.GetKeys() {
		if slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, have) }) {
			continue
		}
		if err := g.ring.RemoveKey(have); err != nil {
			return fmt.Errorf("remove key of gossip: %w", err)
		}
	}
	return nil
}

func validKeys(keys [][]byte) error {
	const do = "run sluice init or sluice join again"
	if len(keys) == 0 {
		return mesh.Refuse(mesh.BadValue, do, "gossip has no key")
	}
	for _, key := range keys {
		if len(key) != KeySize {
			return mesh.Refuse(mesh.BadValue, do, "the gossip key has %d bytes instead of %d", len(key), KeySize)
		}
	}
	return nil
}

func (cfg Config) ring() (*memberlist.Keyring, error) {
	keys := append([][]byte{cfg.Key}, cfg.Read...)
	if err := validKeys(keys); err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(keys, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("make keyring of gossip: %w", err)
	}
	return ring, nil
}
