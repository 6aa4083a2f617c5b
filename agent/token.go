package agent

import (
	"encoding/hex"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The limits of how long a token can be used, and what is usual.
const (
	tokenLeast = time.Minute
	tokenMost  = 365 * 24 * time.Hour
	tokenUsual = 24 * time.Hour
)

// newToken makes a token and the record by which every node knows it.
func newToken(by *trust.Authority, role trust.Role, expires time.Time) (trust.JoinToken, mesh.Record, error) {
	t, err := trust.NewJoinToken(by, role, expires)
	if err != nil {
		return t, mesh.Record{}, err
	}
	g := t.Grant()
	return t, mesh.TokenRecord(&mesh.Token{
		ID: mesh.TokenID(g.ID), Role: string(g.Role), Expires: g.Expires.Unix(), Pin: hex.EncodeToString(g.Pin[:]), Hash: hex.EncodeToString(g.Hash[:]),
	}), nil
}

// grantOf is a token's record as trust judges it.
func grantOf(t *mesh.Token) (trust.Grant, bool) {
	g := trust.Grant{ID: trust.TokenID(t.ID), Role: trust.Role(t.Role), Expires: time.Unix(t.Expires, 0)}
	pin, err1 := hex.DecodeString(t.Pin)
	hash, err2 := hex.DecodeString(t.Hash)
	if err1 != nil || err2 != nil || copy(g.Pin[:], pin) < len(g.Pin) || copy(g.Hash[:], hash) < len(g.Hash) {
		return trust.Grant{}, false
	}
	return g, true
}

// makeToken makes a token that every node takes, and takes back those whose time has ended.
func (c *cluster) makeToken(role trust.Role, ttl time.Duration) (trust.JoinToken, error) {
	if ttl < tokenLeast || ttl > tokenMost {
		return trust.JoinToken{}, mesh.Refuse(mesh.BadValue, "give --ttl from 1m to 8760h", "a token for %s is not made", ttl)
	}
	var token trust.JoinToken
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		// The lock is held: member is of this snapshot's cluster.
		made, record, err := newToken(c.member.bundle.Authority, role, c.now().Add(ttl))
		if err != nil {
			return nil, err
		}
		token = made
		records := []mesh.Record{record}
		for _, t := range snap.Tokens {
			if t.Over(c.now()) {
				records = append(records, tombstone(mesh.TokenRecord(t)))
			}
		}
		return records, nil
	})
	return token, err
}

// dropToken takes a token back.
func (c *cluster) dropToken(id mesh.TokenID) error {
	_, err := c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
		t := snap.Token(id)
		if t == nil {
			return nil, mesh.Refuse(mesh.NotFound, "look at sluice token ls", "no token has the ID %.40q", string(id))
		}
		return []mesh.Record{tombstone(mesh.TokenRecord(t))}, nil
	})
	return err
}
