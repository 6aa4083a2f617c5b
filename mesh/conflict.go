package mesh

import (
	"cmp"
	"slices"
)

// Conflict is a claim that lost against an older one and waits for it to end.
type Conflict struct {
	Kind   Kind
	ID     string
	Claim  string // what was claimed: `name "web"`, "port tcp/8080", "slot 9"
	Winner string // the ID of the noun that holds it, of whatever kind WinnerKind says
	Reason Reason
	By     Kind // of the winner; empty: the same kind
}

// WinnerKind is what kind of noun holds what was claimed.
func (c Conflict) WinnerKind() Kind { return cmp.Or(c.By, c.Kind) }

// Explain is a sentence about a conflict of this snapshot. The winner's ID is in it
// beside the name, since the name may be what both claim.
func (snap *Snapshot) Explain(c Conflict) string {
	winner := string(c.WinnerKind()) + " " + c.Winner
	if name := snap.nameOf(c.WinnerKind(), c.Winner); name != "" {
		winner = string(c.WinnerKind()) + ` "` + name + `" (` + c.Winner + ")"
	}
	return c.Claim + " is held by the older claim of " + winner
}

// nameOf is "" where there is no such noun.
func (snap *Snapshot) nameOf(kind Kind, id string) string {
	switch kind {
	case KindNode:
		if n := snap.nodes[NodeID(id)]; n != nil {
			return n.Name
		}
	case KindNetwork:
		if n := snap.networks[NetworkID(id)]; n != nil {
			return n.Name
		}
	case KindService:
		if s := snap.services[ServiceID(id)]; s != nil {
			return s.Name
		}
	case KindToken, KindRemoval, KindRotation, KindKeyring: // they claim nothing
	case KindEndpoint:
		i := slices.IndexFunc(snap.Endpoints, func(e *Endpoint) bool { return string(e.ID) == id })
		if i >= 0 {
			return snap.Endpoints[i].Name
		}
	}
	return ""
}
