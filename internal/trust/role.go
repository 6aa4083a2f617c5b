package trust

import (
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// Role is what a certificate or a token is for.
type Role string

// The roles. A node is a member: it holds the CA's key and speaks for itself. An
// operator may change what the cluster should be; a viewer may look.
const (
	RoleNode     Role = "node"
	RoleOperator Role = "operator"
	RoleViewer   Role = "viewer"
)

// roles are all roles. The place of a role is its number in a token.
func roles() []Role { return []Role{RoleNode, RoleOperator, RoleViewer} }

// ParseRole refuses what is no role.
func ParseRole(s string) (Role, error) {
	if !slices.Contains(roles(), Role(s)) {
		return "", mesh.Refuse(WrongRole, "use node, operator or viewer", "%.40q is no role", s)
	}
	return Role(s), nil
}

// May tells whether a holder of role r may do what needs role need: a node may do
// what an operator may, and an operator what a viewer may.
func (r Role) May(need Role) bool {
	have, want := slices.Index(roles(), r), slices.Index(roles(), need)
	return have >= 0 && want >= have
}
