package plan

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Flow is where conntrack may send the packets of established flows: a backend,
// draining ones included. Flows to anywhere else are forgotten, and balanced anew.
// It is its own key.
type Flow struct {
	Addr netip.Addr
	Port uint16
}

// String is the flow's line in the plan.
func (f Flow) String() string {
	return fmt.Sprintf("flows    to %s", netip.AddrPortFrom(f.Addr, f.Port))
}

// CompareFlow orders flows by address and port.
func CompareFlow(a, b Flow) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) }
