package ingress

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Balancer turns fronts into what picks an endpoint in a sandbox. It is pure:
// the same fronts in the same order give the same plan.
type Balancer interface {
	Balance(fronts []Front, at Site)
	// Admits are the rules that let a connection through to a backend: of the input
	// chain, where everything else is refused, and of the forward chain.
	Admits(at Site) (input, forward []string)
}

// Site is a sandbox that balances.
type Site struct {
	Sandbox  *plan.Sandbox
	Clients  string   // the device that clients' packets come in by, as nft takes it: "uplink" in quotes
	Backends string   // matches what leaves by a device that leads to backends
	Dialled  []string // matches of forwarded packets that came to be balanced, whoever has their flow now
	// Tracked: conntrack is to know the flows that IPVS has, as rules ask for their state or
	// translate them further.
	Tracked bool
	// KeepsPort: a backend is reached on the port that was dialled.
	KeepsPort bool
}

// IPVS balances in the kernel's virtual server, keyed by firewall mark.
type IPVS struct{}

// Balance implements Balancer.
func (IPVS) Balance(fronts []Front, at Site) {
	sbox := at.Sandbox
	sbox.Timeouts = timeouts()
	conntrack := "0"
	if at.Tracked {
		conntrack = "1"
	} else {
		// From when nftables balanced here. A client uses its port again, and as soon as nftables
		// balances here again an open connection would be taken for the former one.
		sbox.Flows = append(sbox.Flows, plan.Nowhere())
	}
	sbox.Sysctls = append(
		sbox.Sysctls,
		plan.Sysctl{Key: "net/ipv4/vs/conntrack", Value: conntrack},
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
		if f.At4.IsValid() {
			serve(at, f, f.At4, func(b Backend) netip.Addr { return b.V4 })
		}
		if f.At6.IsValid() {
			serve(at, f, f.At6, func(b Backend) netip.Addr { return b.V6 })
		}
	}
}

// Admits implements Balancer. IPVS takes packets on their way into the namespace, and
// its own are not forwarded. Established connections need the mark of a front that
// is draining as a whole; new ones are refused.
func (IPVS) Admits(at Site) (input, forward []string) {
	return []string{
		// IPVS would answer with port unreachable, which a client that sent SYN may ignore.
		fmt.Sprintf("iifname %s tcp flags & (syn | ack) == syn meta mark @drained counter reject with tcp reset", at.Clients),
		fmt.Sprintf("iifname %s meta mark != 0 accept", at.Clients), // IPVS comes next
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

func serve(at Site, f *Front, dialled netip.Addr, addr func(Backend) netip.Addr) {
	server := plan.VirtualServer{
		Mark: f.Mark, Family: plan.FamilyOf(dialled), Scheduler: string(f.Service.Scheduler), Persistent: f.Service.Affinity,
	}
	if server.Persistent != 0 && !at.KeepsPort {
		server.Mark = 0
		server.Dialled = plan.Dialled{Proto: string(f.Port.Proto), At: netip.AddrPortFrom(dialled, f.Port.Published)}
	}
	if server.Ordered() {
		server.Flags = plan.FlagFallback(server.Scheduler)
	}
	at.Sandbox.Virtual = append(at.Sandbox.Virtual, server)
	for _, b := range f.Backends {
		at.Sandbox.Backends = append(at.Sandbox.Backends, plan.Backend{
			Mark: server.Mark, Dialled: server.Dialled, Addr: addr(b), Port: f.Port.Target, Weight: b.Weight,
		})
	}
}
