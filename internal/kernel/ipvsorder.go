package kernel

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/ipvs"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The tables of sh and mh depend on the order of a service's backends, which is that of
// their arrival: nodes that heard of the same backends in another order would choose
// differently. So the plan's order is kept, and where it is not, backends are taken out
// and put in again.

// BackendOrder is what is put in again: the virtual server's backends behind the first
// one that is not in its place, in the plan's order, new ones included.
type BackendOrder struct {
	Mark     uint32
	Dialled  plan.Dialled
	Family   plan.Family
	Backends []plan.Backend
}

func (o BackendOrder) String() string {
	addrs := make([]string, len(o.Backends))
	for i, b := range o.Backends {
		addrs[i] = b.Addr.String()
	}
	return fmt.Sprintf("order of backends, %s %s: %v", plan.ServerKey(o.Mark, o.Dialled), o.Family, addrs)
}

// diffOrder finds the servers whose backends are, or would be after those that come,
// in another order than the plan's. have is in the order of arrival.
func diffOrder(want *plan.Sandbox, have []plan.Backend) []BackendOrder {
	ordered := make(map[serverKey]bool)
	for _, v := range want.Virtual {
		if v.Ordered() {
			ordered[virtualKey(v)] = true
		}
	}
	if len(ordered) == 0 {
		return nil
	}
	wanted, _ := perServer(want.Backends, func(b plan.Backend) bool { return ordered[serverOf(b)] })
	stays := make(map[plan.Backend]bool, len(want.Backends))
	for _, b := range want.Backends {
		stays[backendKey(b)] = true
	}
	held, servers := perServer(have, func(b plan.Backend) bool { return ordered[serverOf(b)] && stays[backendKey(b)] })
	var found []BackendOrder
	for _, key := range servers {
		w, h := wanted[key], held[key]
		same := 0
		for same < len(h) && backendKey(h[same]) == backendKey(w[same]) {
			same++
		}
		if same < len(h) { // otherwise all new ones come behind
			found = append(found, BackendOrder{key.mark, key.dialled, key.family, w[same:]})
		}
	}
	return found
}

// perServer sorts out some backends by their servers, which are told in the order of
// their first.
func perServer(list []plan.Backend, some func(plan.Backend) bool) (map[serverKey][]plan.Backend, []serverKey) {
	of := make(map[serverKey][]plan.Backend)
	var servers []serverKey
	for _, b := range list {
		if !some(b) {
			continue
		}
		key := serverOf(b)
		if of[key] == nil {
			servers = append(servers, key)
		}
		of[key] = append(of[key], b)
	}
	return of, servers
}

func serverOf(b plan.Backend) serverKey { return serverKey{b.Mark, b.Dialled, plan.FamilyOf(b.Addr)} }

// withoutOrdered leaves out what an order brings too.
func withoutOrdered(ops []Op, orders []BackendOrder) []Op {
	brought := make(map[plan.Backend]bool)
	for _, o := range orders {
		for _, b := range o.Backends {
			brought[backendKey(b)] = true
		}
	}
	return slices.DeleteFunc(ops, func(op Op) bool {
		b, is := op.Object.(plan.Backend)
		return is && op.Verb != Delete && brought[backendKey(b)]
	})
}

// nodestSetting says what becomes of packets of a flow whose backend is not there: 1 ends
// the flow, 0 drops the packet.
const nodestSetting = "net/ipv4/vs/expire_nodest_conn"

// doOrder takes each backend out and puts it in at once, behind all others. Open flows find
// it again: what the kernel remembers of a backend outlives it. Meanwhile, for some tens of
// microseconds each, a packet for it is dropped instead of its flow; one that opens a
// flow goes to another backend.
func (n *namespace) doOrder(o BackendOrder) (err error) {
	set := func(value string) error {
		return n.do(func() error { return writeSysctl(plan.Sysctl{Key: nodestSetting, Value: value}) })
	}
	before, err := n.observeSysctls([]plan.Sysctl{{Key: nodestSetting}})
	if err != nil {
		return err
	}
	if err := set("0"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set(before[nodestSetting])) }()
	return n.askIPVS(func(h *ipvs.Handle) error {
		for _, b := range o.Backends {
			if err := doBackend(h, Delete, b); err != nil {
				return fmt.Errorf("take out %s: %w", b, err)
			}
			if err := doBackend(h, Add, b); err != nil {
				return fmt.Errorf("put in %s: %w", b, err)
			}
		}
		return nil
	})
}
