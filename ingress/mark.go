package ingress

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// marks maps (uplink address, protocol, published port) to the firewall mark
// that keys the balancer. A front with nobody behind it has none, and is
// refused in the sandbox's input chain before IPVS is asked.
func (b *builder) marks(fronts []Front) {
	table := b.sbox.Table("inet")
	four := table.Map("services4", plan.FieldMark, plan.FieldIPv4, plan.FieldProto, plan.FieldPort)
	six := table.Map("services6", plan.FieldMark, plan.FieldIPv6, plan.FieldProto, plan.FieldPort)
	four.Elements, six.Elements = slices.Grow(four.Elements, len(fronts)), slices.Grow(six.Elements, len(fronts))
	for _, f := range fronts {
		if len(f.Backends) == 0 {
			continue
		}
		mark := plan.HexMark(f.Mark)
		proto, port := string(f.Port.Proto), strconv.Itoa(int(f.Port.Published))
		if f.At4.IsValid() {
			four.Put(mark, f.At4.String(), proto, port)
		}
		if f.At6.IsValid() {
			six.Put(mark, f.At6.String(), proto, port)
		}
	}
	table.Chain("mangle", "type filter hook prerouting priority mangle; policy accept;").Rule(
		fmt.Sprintf(`iifname "%s" meta mark set ip daddr . meta l4proto . th dport map @services4`, plan.Uplink),
		fmt.Sprintf(`iifname "%s" meta mark set ip6 daddr . meta l4proto . th dport map @services6`, plan.Uplink),
	)
}
