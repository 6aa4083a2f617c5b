package bridge

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// frames are the rules of a bridge: what a port says is from its own endpoint. Nothing else is
// let in, so that nobody takes a sibling's traffic by its hardware address, which the bridge
// would learn, or by its address, which neighbours would; and no frame goes round where one
// endpoint joins two bridges, as it comes back from a stranger.
//
// ARP and neighbour discovery say in their bodies whose address is where. Discovery's
// advertisements may come from any address; only the host is a router.
func frames(t *plan.Table) {
	t.Set("macs", plan.FieldIface, plan.FieldMAC)
	t.Set("addresses4", plan.FieldIface, plan.FieldIPv4)
	t.Set("addresses6", plan.FieldIface, plan.FieldIPv6)
	t.Set("targets", plan.FieldIface, plan.FieldTarget)
	t.Chain("ports", "type filter hook prerouting priority -300; policy drop;").Rule(
		fmt.Sprintf(`iifname "%s" accept`, plan.BridgeHost),
		"iifname . ether saddr != @macs counter drop",
		"ether type ip iifname . ip saddr @addresses4 accept",
		"ether type arp iifname . arp saddr ether != @macs counter drop",
		"ether type arp arp saddr ip 0.0.0.0 accept", // asks whether an address is free
		"ether type arp iifname . arp saddr ip @addresses4 accept",
		"ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } counter drop",
		// The target: 128 bits behind 64 of the message; 0x3fa are the first of fe80::/10.
		"ether type ip6 icmpv6 type nd-neighbor-advert @th,64,10 != 0x3fa iifname . @th,64,128 != @targets counter drop",
		"ether type ip6 ip6 saddr { ::, fe80::/10 } accept",
		"ether type ip6 iifname . ip6 saddr @addresses6 accept",
		"counter",
	)
	// The bridge is nobody; frames to its reserved addresses are learned from here alone.
	t.Chain("nobody", "type filter hook input priority -200; policy drop;")
}

// speaks lets a port send as one endpoint.
func speaks(t *plan.Table, port string, mac plan.MAC, v4, v6 netip.Addr) {
	t.Set("macs").Add(port, mac.String())
	t.Set("addresses4").Add(port, v4.String())
	t.Set("addresses6").Add(port, v6.String())
	t.Set("targets").Add(port, plan.TargetText(v6))
}
