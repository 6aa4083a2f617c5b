package ingress

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Front is what clients dial as this node serves it: a published port, or a service's virtual
// address, of which Port is zero.
type Front struct {
	mesh.Front
	Mark     uint32
	At4      netip.Addr // what the sandbox sees dialled; invalid where the publication is of the other family
	At6      netip.Addr
	Backends []Backend // sorted by endpoint
}

// ready tells whether a new connection has somewhere to go.
func (f *Front) ready() bool {
	return slices.ContainsFunc(f.Backends, func(b Backend) bool { return b.Weight > 0 })
}

// Backend is one endpoint behind a front, in both families.
type Backend struct {
	V4, V6 netip.Addr
	Weight int // 0: draining
}

// fronts gives every published port its mark, its uplink address and its
// backends. A front without a backend stays: it refuses.
func (b *builder) fronts() []Front {
	marks, uplinks := newMarks(len(b.snap.Fronts)), newUplinks()
	backends := make(map[mesh.ServiceID][]Backend, len(b.snap.Services))
	fronts := make([]Front, 0, len(b.snap.Fronts))
	for _, f := range b.snap.Fronts {
		if f.Port.Mode == mesh.Hosted {
			continue // each node has it for its own endpoints (package bridge)
		}
		front := Front{Front: f, Mark: marks.of(f.Port)}
		number, ok := uplinks.of(f.Port.Addr)
		if !ok {
			b.plan.Leave(plan.AddressClash, f.String(), "252 addresses are published on already")
			continue
		}
		if a := f.Port.Addr; !a.IsValid() || a.Is4() {
			front.At4 = plan.Uplink4(number).Addr()
		}
		if a := f.Port.Addr; !a.IsValid() || a.Is6() {
			front.At6 = plan.Uplink6(number).Addr()
		}
		known, met := backends[f.Service.ID]
		if !met {
			known = b.backends(f.Service, b.net)
			backends[f.Service.ID] = known
		}
		if front.Backends = known; len(known) == 0 {
			b.plan.Leave(plan.NoReadyEndpoint, f.String(), b.whyNone(f.Service))
		}
		fronts = append(fronts, front)
	}
	return fronts
}

// backends are the service's endpoints that have an address on the network which this node
// has a route to.
func (b *builder) backends(s *mesh.Service, on *mesh.Network) []Backend {
	endpoints := b.snap.EndpointsOf(s.ID)
	list := make([]Backend, 0, len(endpoints))
	for _, e := range endpoints {
		a, ok := e.On(on.ID)
		if !ok {
			continue // not settled by its node yet; its node says so
		}
		if b.gone[e.Node] {
			continue // leaveGone says so once for the node
		}
		if !b.snap.Reaches(e, a) {
			b.plan.Leave(plan.NodeUnknown, "endpoint "+e.Name, "its node has not claimed the block of its address")
			continue
		}
		weight := e.Weight
		if e.State == mesh.Draining {
			weight = 0
		}
		list = append(list, Backend{V4: a.V4, V6: a.V6, Weight: weight})
	}
	return list
}

// whyNone tells why a service has no backend.
func (b *builder) whyNone(s *mesh.Service) string {
	if slices.ContainsFunc(b.snap.EndpointsOf(s.ID), func(e *mesh.Endpoint) bool { return b.gone[e.Node] }) {
		return "connections are refused until the node of an endpoint is back"
	}
	return "connections are refused until an endpoint is attached"
}

// leaveGone names the nodes whose endpoints are no backends here. What leads to them
// stays: they are asked that way whether they are back.
func (b *builder) leaveGone() {
	for _, n := range b.snap.Nodes {
		if b.gone[n.ID] {
			b.plan.Leave(plan.NodeGone, "node "+n.Name, "neither its agent nor its kernel answers: its endpoints are not used from here")
		}
	}
}

// The top bit says "reply" (plan.ReplyMark), and 0 is no mark.
const markBits = plan.ReplyMark - 1

// marks chooses firewall marks by hash of what a client dials, probing over
// what older claims have: neither the order in which records arrived nor a
// restart changes them.
type marks struct{ taken map[uint32]bool }

func newMarks(n int) marks { return marks{make(map[uint32]bool, n)} }

func (m marks) of(p mesh.PublishedPort) uint32 {
	h := fnv.New32a()
	a := p.Addr.As16()
	if p.Addr.IsValid() {
		h.Write(a[:])
	}
	h.Write([]byte{byte(p.Published >> 8), byte(p.Published)})
	h.Write([]byte(p.Proto))
	for mark := h.Sum32() & markBits; ; mark = (mark + 1) & markBits {
		if mark != 0 && !m.taken[mark] {
			m.taken[mark] = true
			return mark
		}
	}
}

// uplinks gives each address that something is published on a number on the
// uplink, by hash and probing in the order of claims.
type uplinks struct {
	numbers map[netip.Addr]byte
	taken   map[byte]bool
}

func newUplinks() uplinks { return uplinks{map[netip.Addr]byte{}, map[byte]bool{}} }

func (u uplinks) of(published netip.Addr) (byte, bool) {
	if !published.IsValid() {
		return plan.UplinkSandboxNumber, true
	}
	if n, ok := u.numbers[published]; ok {
		return n, true
	}
	const span = plan.UplinkLast - plan.UplinkFirstSpare + 1
	h := fnv.New32a()
	a := published.As16()
	h.Write(a[:])
	for i := range uint32(span) {
		n := byte(plan.UplinkFirstSpare + (h.Sum32()+i)%span)
		if !u.taken[n] {
			u.taken[n], u.numbers[published] = true, n
			return n, true
		}
	}
	return 0, false
}
