package kernel

import (
	"fmt"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Verb is what an Op does with its object.
type Verb string

// The verbs. Deleting what is absent is success.
const (
	Add     Verb = "add"
	Replace Verb = "replace" // same key, other value; done without a gap where the kernel can
	Delete  Verb = "delete"
)

// Op is one change of one object. Object is one of: plan.Link, plan.Addr,
// plan.Route, plan.Rule, plan.Neigh, plan.FDBEntry, plan.Sysctl, plan.VirtualServer,
// plan.Backend, plan.Timeouts, plan.Flow, plan.Zone, BackendOrder, Namespace, TableLoad,
// ElementChange, UserTable, LockLoad, Pass, Announcement.
type Op struct {
	Verb    Verb
	Sandbox string
	Object  fmt.Stringer
}

// String is the line that "sluice plan --diff", logs and reports show.
func (o Op) String() string { return fmt.Sprintf("%s %s: %s", o.Verb, o.Sandbox, o.Object) }

// Namespace is the sandbox itself: the pinned mount of a network namespace.
type Namespace struct{ Kind plan.Kind }

func (n Namespace) String() string { return "namespace " + string(n.Kind) }

// TableLoad is a whole nft table, rules and elements, in one transaction. With
// Delete only Table.Family counts.
type TableLoad struct{ Table *plan.Table }

func (t TableLoad) String() string {
	return fmt.Sprintf("nft table %s %s", t.Table.Family, plan.TableName)
}

// ElementChange is what changes in the sets and maps of one table whose rules
// stay: one netlink transaction. A map element with another value under the same
// key stands in Gone (old) and Come (new).
type ElementChange struct {
	Family string
	Sets   []SetChange
}

// SetChange is one set's part of an ElementChange. Set carries the types only.
type SetChange struct {
	Set        plan.Set
	Come, Gone []plan.Element
}

func (e ElementChange) String() string {
	parts := make([]string, len(e.Sets))
	for i, s := range e.Sets {
		parts[i] = fmt.Sprintf("%s +%d -%d", s.Set.Name, len(s.Come), len(s.Gone))
	}
	return fmt.Sprintf("nft elements %s %s", e.Family, strings.Join(parts, ", "))
}
