package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Balancer turns fronts into what picks an endpoint in ingress-sbox. It is pure:
// the same fronts in the same order give the same plan.
type Balancer interface {
	Balance(fronts []Front, sbox *plan.Sandbox)
	// Admits are the rules that let a connection through to a backend: of the input
	// chain, where everything else is refused, and of the forward chain. backends is
	// the devices that lead to backends, as an nft set.
	Admits(backends string) (input, forward []string)
}

// IPVS balances in the kernel's virtual server, keyed by firewall mark.
type IPVS struct{}

// Balance implements Balancer.
func (IPVS) Balance(fronts []Front, sbox *plan.Sandbox) {
	sbox.Timeouts = timeouts()
	sbox.Sysctls = append(
		sbox.Sysctls,
		plan.Sysctl{Key: "net/ipv4/vs/conntrack", Value: "0"},
		// 0 would let a reused client port reach a draining backend.
		plan.Sysctl{Key: "net/ipv4/vs/conn_reuse_mode", Value: "1"},
		// Schedule any packet, not only SYN: after an entry address moved to another
		// node its open connections live on.
		plan.Sysctl{Key: "net/ipv4/vs/sloppy_tcp", Value: "1"},
		// A flow to a backend that is gone is scheduled anew instead of dropped.
		plan.Sysctl{Key: "net/ipv4/vs/expire_nodest_conn", Value: "1"},
		plan.Sysctl{Key: "net/ipv4/vs/expire_quiescent_template", Value: "1"},
	)
	drained := sbox.Table("inet").Set("drained", plan.FieldMark)
	for i := range fronts {
		if f := &fronts[i]; len(f.Backends) > 0 && !f.ready() {
			drained.Add(plan.HexMark(f.Mark))
		}
	}
	served := byMark(fronts)
	count := 0
	for _, f := range served {
		count += len(f.Backends)
	}
	const families = 2
	sbox.Virtual = slices.Grow(sbox.Virtual, families*len(served))
	sbox.Backends = slices.Grow(sbox.Backends, families*count)
	for _, f := range served {
		if f.Uplink4.IsValid() {
			serve(sbox, f, f.Uplink4, func(b Backend) netip.Addr { return b.V4 })
		}
		if f.Uplink6.IsValid() {
			serve(sbox, f, f.Uplink6, func(b Backend) netip.Addr { return b.V6 })
		}
	}
}

// Admits implements Balancer. IPVS takes packets on their way into the namespace, and
// its own are not forwarded. Established connections need the mark of a front that
// is draining as a whole; new ones are refused.
func (IPVS) Admits(string) (input, forward []string) {
	return []string{
		// IPVS would answer with port unreachable, which a client that sent SYN may ignore.
		fmt.Sprintf(`iifname "%s" tcp flags & (syn | ack) == syn meta mark @drained counter reject with tcp reset`, plan.Uplink),
		fmt.Sprintf(`iifname "%s" meta mark != 0 accept`, plan.Uplink), // IPVS comes next
	}, nil
}

// byMark leaves out the fronts that nobody is behind and puts the others into
// the plan's order: sorting them is cheaper than sorting their backends.
func byMark(fronts []Front) []*Front {
	served := make([]*Front, 0, len(fronts))
	for i := range fronts {
		if len(fronts[i].Backends) > 0 {
			served = append(served, &fronts[i])
		}
	}
	slices.SortFunc(served, func(a, b *Front) int { return cmp.Compare(a.Mark, b.Mark) })
	return served
}

func serve(sbox *plan.Sandbox, f *Front, uplink netip.Addr, addr func(Backend) netip.Addr) {
	server := plan.VirtualServer{
		Mark: f.Mark, Family: plan.FamilyOf(uplink), Scheduler: string(f.Service.Scheduler), Persistent: f.Service.Affinity,
	}
	if server.Persistent != 0 {
		server.Mark = 0
		server.Dialled = plan.Dialled{Proto: string(f.Port.Proto), At: netip.AddrPortFrom(uplink, f.Port.Published)}
	}
	if server.Ordered() {
		server.Flags = plan.FlagFallback(server.Scheduler)
	}
	sbox.Virtual = append(sbox.Virtual, server)
	for _, b := range f.Backends {
		sbox.Backends = append(sbox.Backends, plan.Backend{Mark: server.Mark, Dialled: server.Dialled, Addr: addr(b), Port: f.Port.Target, Weight: b.Weight})
	}
}
