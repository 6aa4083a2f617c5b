package trust

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Grant is what the cluster keeps of a token: nothing that a token could be made from.
type Grant struct {
	ID      TokenID
	Role    Role
	Expires time.Time
	Pin     Pin               // of the CA that the token pins
	Hash    [sha256.Size]byte // of the public half of the key that its secret stands for
	Revoked bool
}

// Grant is what the cluster is to keep of t.
func (t JoinToken) Grant() Grant {
	return Grant{ID: t.ID, Role: t.Role, Expires: t.Expires, Pin: t.Pin, Hash: grantHash(t.key().Public())}
}

func grantHash(key PublicKey) [sha256.Size]byte {
	return sha256.Sum256(inDomain("sluice-grant/1", key[:]))
}

// proves tells whether signature over message was made with g's token. How long it takes
// does not depend on how much of a hash is right.
func (g Grant) proves(key PublicKey, message, signature []byte) bool {
	hash := grantHash(key)
	same := subtle.ConstantTimeCompare(hash[:], g.Hash[:]) == 1
	return key.verifies(purposeToken, message, signature) && same
}

// Check refuses a token whose secret was proven and that is of no use all the same.
// pin is that of the CA of now.
func (g Grant) Check(role Role, pin Pin, now time.Time) error {
	switch {
	case g.Revoked:
		return mesh.Refuse(TokenRevoked, doNewToken, "token %s was taken back", g.ID)
	case !now.Before(g.Expires):
		return mesh.Refuse(TokenExpired, doNewToken, "token %s ended at %s", g.ID, g.Expires.UTC().Format(time.RFC3339))
	case g.Pin != pin:
		return mesh.Refuse(TokenOutdated, doNewToken, "token %s was made before a node was removed", g.ID)
	case g.Role != role:
		return mesh.Refuse(WrongRole, doNewToken, "token %s is for role %s, and %s was asked for", g.ID, g.Role, role)
	default:
		return nil
	}
}

// unknownToken says the same of a token that was never there and of a wrong secret, so
// that nobody finds out which tokens there are.
func unknownToken() error {
	return mesh.Refuse(TokenUnknown, doNewToken, "the cluster knows no such token")
}
