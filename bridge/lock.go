package bridge

import (
	"fmt"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// masqueraded is what a flow is that has got the host's address.
const masqueraded = "ct status & snat == snat"

// lock holds the host closed while its rules are away: routes and forwarding go on without them. What
// the rules let pass is told by what conntrack knows of its flow, so that nothing here depends on
// ports or addresses.
func (b *builder) lock() {
	t := b.host.MakeLock()
	together := t.Set("together", plan.FieldIface, plan.FieldIface)
	routed := t.Set("routed_bridges", plan.FieldIface)
	inward := t.Chain("lock_in", "type filter hook forward priority 20; policy accept;")
	for _, devices := range []string{bridges, waysOut, `"` + plan.UplinkHost + `"`} {
		inward.Rule(fmt.Sprintf("oifname %s jump inward", devices))
	}
	t.Chain("inward", "").Rule(
		"ct direction reply accept",
		translated+" accept",
		fmt.Sprintf("iifname . oifname @%s accept", together.Name),
		fmt.Sprintf("iifname != %s oifname @%s accept", bridges, routed.Name),
		"counter drop",
	)
	// A flow that began with the endpoint's address would keep it.
	t.Chain("lock_out", "type filter hook postrouting priority 110; policy accept;").Rule(
		fmt.Sprintf("iifname %s oifname != %s jump outward", bridges, bridges),
		fmt.Sprintf("iifname %s jump outward", waysOut),
	)
	t.Chain("outward", "").Rule(
		"ct direction reply accept",
		"fib saddr type local accept", // the host's own, such as what it packs an endpoint's packet into
		masqueraded+" accept",
		"ct state untracked accept", // as by the rules
		"counter drop",
	)
	// It translates nothing: with it the kernel goes on translating the flows that it knows.
	t.Chain("translated", "type nat hook prerouting priority -90; policy accept;")
}

// lockAdds adds to a set of the lock, where there is one.
func (b *builder) lockAdds(set string, values ...string) {
	if b.local.Lock {
		b.host.MakeLock().Set(set).Add(values...)
	}
}
