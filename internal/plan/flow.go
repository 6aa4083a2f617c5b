package plan

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Flow is where conntrack may send the packets of established flows: a backend,
// draining ones included, on one port or, where that is 0, on any. Flows to anywhere else
// are forgotten, and balanced anew. It is its own key. Nowhere stands for none.
//
// In the host they are what flows may go on to although no map of its ports leads there any more:
// endpoints that finish what is open.
type Flow struct {
	Addr netip.Addr
	Port uint16
}

// Nowhere is the flow of a sandbox in which conntrack sends nothing anywhere: what it still knows from
// when it did is forgotten.
func Nowhere() Flow { return Flow{} }

// String is the flow's line in the plan.
func (f Flow) String() string {
	if f == Nowhere() {
		return "flows    to nowhere"
	}
	return fmt.Sprintf("flows    to %s", netip.AddrPortFrom(f.Addr, f.Port))
}

// CompareFlow orders flows by address and port.
func CompareFlow(a, b Flow) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) }

// Zone is a conntrack zone of a network sandbox: the entry node whose slot it is may have
// flows to endpoints here. Flows of any other zone are forgotten. It is its own key.
type Zone uint16

// String is the zone's line in the plan.
func (z Zone) String() string { return fmt.Sprintf("flows    of zone %d", uint16(z)) }
