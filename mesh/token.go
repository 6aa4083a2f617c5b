package mesh

import (
	"cmp"
	"slices"
	"time"
)

// TokenID names a join token.
type TokenID string

// Token is what all nodes know of a join token: enough to know it again, and nothing that
// it could be made from. Any node may make one and take it back; taken back, it is a tombstone.
type Token struct {
	ID      TokenID
	Role    string // node, operator or viewer
	Expires int64  // Unix seconds
	Pin     string // of the CA that the token pins: SHA-256, hex
	Hash    string // of the key that its secret stands for: SHA-256, hex
}

// TokenRecord wraps a token.
func TokenRecord(t *Token) Record { return Record{Kind: KindToken, ID: string(t.ID), Token: t} }

// hashText is the number of hex characters of a SHA-256.
const hashText = 64

// Validate refuses a token that no node makes.
func (t *Token) Validate() error {
	if err := validID(string(t.ID)); err != nil {
		return err
	}
	roles := []string{"node", "operator", "viewer"}
	if !slices.Contains(roles, t.Role) || t.Expires <= 0 || !isHex(t.Pin, hashText) || !isHex(t.Hash, hashText) {
		return Refuse(BadRecord, "update the node that wrote it", "token %s is not whole", t.ID)
	}
	return nil
}

// Over tells whether the token's time has ended.
func (t *Token) Over(now time.Time) bool { return now.Unix() >= t.Expires }

func compareTokens(a, b *Token) int {
	return cmp.Or(cmp.Compare(a.Expires, b.Expires), cmp.Compare(a.ID, b.ID))
}

// Token looks a token up by ID; nil where there is none.
func (snap *Snapshot) Token(id TokenID) *Token {
	if i := slices.IndexFunc(snap.Tokens, func(t *Token) bool { return t.ID == id }); i >= 0 {
		return snap.Tokens[i]
	}
	return nil
}
