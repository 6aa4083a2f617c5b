package ingress

import (
	"github.com/sluice-mesh/sluice/internal/plan"
)

// Balancer turns fronts into what picks an endpoint in ingress-sbox. It is pure:
// the same fronts in the same order give the same plan.
type Balancer interface {
	Balance(fronts []Front, sbox *plan.Sandbox)
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
	for _, f := range fronts {
		if len(f.Backends) == 0 {
			continue
		}
		scheduler := string(f.Service.Scheduler)
		if f.Uplink4.IsValid() {
			sbox.Virtual = append(sbox.Virtual, plan.VirtualServer{Mark: f.Mark, Family: plan.IPv4, Scheduler: scheduler})
		}
		if f.Uplink6.IsValid() {
			sbox.Virtual = append(sbox.Virtual, plan.VirtualServer{Mark: f.Mark, Family: plan.IPv6, Scheduler: scheduler})
		}
		for _, e := range f.Backends {
			if f.Uplink4.IsValid() {
				sbox.Backends = append(sbox.Backends, plan.Backend{Mark: f.Mark, Addr: e.V4, Port: f.Port.Target, Weight: e.Weight})
			}
			if f.Uplink6.IsValid() {
				sbox.Backends = append(sbox.Backends, plan.Backend{Mark: f.Mark, Addr: e.V6, Port: f.Port.Target, Weight: e.Weight})
			}
		}
	}
}
