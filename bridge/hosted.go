package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// hostedMaps declares the maps of ports, which are there without a port too.
func (b *builder) hostedMaps() {
	for _, f := range []plan.Family{plan.IPv4, plan.IPv6} {
		addr := plan.FieldIPv4
		if f == plan.IPv6 {
			addr = plan.FieldIPv6
		}
		for _, m := range []*plan.Set{
			b.table.Map(mapFor(f, mesh.PublishedPort{}), addr, plan.FieldProto, plan.FieldPort),
			b.table.Map(mapFor(f, mesh.PublishedPort{Addr: plan.Gateway4()}), addr, addr, plan.FieldProto, plan.FieldPort),
		} {
			m.Value = append(m.Value, plan.FieldPort)
		}
		for _, m := range []*plan.Set{
			b.table.Map(mapFor(f, mesh.PublishedPort{Last: 1}), addr, plan.FieldProto, plan.FieldPort),
			b.table.Map(mapFor(f, mesh.PublishedPort{Last: 1, Addr: plan.Gateway4()}), addr, addr, plan.FieldProto, plan.FieldPort),
		} {
			m.Ranges = true
		}
	}
}

// mapFor names the map that a port of a family is an element of.
func mapFor(f plan.Family, p mesh.PublishedPort) string {
	names := [2]string{plan.Hosted4, plan.Hosted6}
	switch {
	case p.Last != 0 && p.Addr.IsValid():
		names = [2]string{plan.HostedRangeAt4, plan.HostedRangeAt6}
	case p.Last != 0:
		names = [2]string{plan.HostedRange4, plan.HostedRange6}
	case p.Addr.IsValid():
		names = [2]string{plan.HostedAt4, plan.HostedAt6}
	}
	if f == plan.IPv6 {
		return names[1]
	}
	return names[0]
}

// hosted makes the ports answer that the node has for its own endpoints.
func (b *builder) hosted(ports mesh.Hosting) {
	for _, f := range ports.Lost {
		b.plan.Leave(plan.PortTaken, object(f), "another endpoint of this node answers on it: publish another port, or attach the endpoint on another node")
	}
	for _, f := range ports.Held {
		if by := b.holder(f.Port); by != "" {
			b.plan.Leave(plan.PortHeld, object(f), "held by "+by+" on this node: stop it or publish another port")
			continue
		}
		b.open(f)
	}
	b.entries()
	b.finishing()
}

// finishing lets datagrams of flows to draining endpoints go on, which no map leads to any more:
// the kernel forgets those that nobody vouches for. Streams go on by themselves.
func (b *builder) finishing() {
	flows := map[plan.Flow]bool{}
	for _, e := range b.snap.Local(b.local.ID) {
		at, reached := b.snap.Gateway(e)
		service := b.snap.Service(e.Service)
		if e.State != mesh.Draining || !reached || service == nil {
			continue
		}
		for _, p := range service.Publish {
			if p.Mode != mesh.Hosted || p.Proto != mesh.UDP {
				continue
			}
			to := p.Target
			if p.Last != 0 {
				to = 0 // whatever was dialled
			}
			flows[plan.Flow{Addr: at.V4, Port: to}], flows[plan.Flow{Addr: at.V6, Port: to}] = true, true
		}
	}
	for f := range flows { // sorted with the plan
		b.host.Flows = append(b.host.Flows, f)
	}
}

func object(f mesh.HostedFront) string {
	return fmt.Sprintf("endpoint %s port %s", f.Endpoint.Name, f.Port.Front())
}

// holder is who has one of the ports on this host; empty: nobody.
func (b *builder) holder(p mesh.PublishedPort) string {
	i := slices.IndexFunc(b.local.Held, func(h mesh.HeldPort) bool { return p.Overlaps(h.Port()) })
	if i < 0 {
		return ""
	}
	return b.local.Held[i].By
}

// open leads a port to its endpoint, in both families.
func (b *builder) open(f mesh.HostedFront) {
	n := b.snap.Network(f.At.Network)
	if n == nil || n.Bridged() && b.built[plan.BridgeLink(string(n.ID))] != n {
		return // whose bridge has its name has been told
	}
	if self := b.snap.Node(b.local.ID); !n.Bridged() && (self.Slot == 0 || len(self.BlocksOf(n.ID)) == 0) {
		// Without a block there is no sandbox (package overlay), and the address may be another node's.
		b.plan.Leave(plan.NotSettled, object(f), "this node has no block of network "+n.Name+" yet")
		return
	}
	ports := plan.Ports{Addr: f.Port.Addr, Proto: string(f.Port.Proto), First: f.Port.Published, Last: f.Port.Last}
	for _, at := range []netip.Addr{f.At.V4, f.At.V6} {
		if !ports.Has(plan.FamilyOf(at)) {
			continue
		}
		b.capture(f.Port, ports, at)
		if !n.Bridged() {
			b.enter(f.Port, at)
		}
	}
	b.host.Judge(ports)
	if link := plan.BridgeLink(string(n.ID)); n.Bridged() && !b.seen[link] {
		b.seen[link] = true
		b.host.LetLocalIn(link) // chain closed drops all but answers
	}
	if from := f.Port.Sources.Prefixes(); len(from) > 0 {
		b.table.AdmitOnly(ports, from)
	}
}

// capture is the one thing that makes the port answer.
func (b *builder) capture(p mesh.PublishedPort, dialled plan.Ports, at netip.Addr) {
	key := []string{dialled.Proto, dialled.Text()}
	if dialled.Addr.IsValid() {
		key = append([]string{dialled.Addr.String()}, key...)
	}
	to := at.String()
	if p.Last == 0 {
		to = plan.Join(to, strconv.Itoa(int(p.Target)))
	}
	b.table.Set(mapFor(plan.FamilyOf(at), p)).Put(to, key...)
}

// enter lets a port be reached by the way out of the network that its endpoint is on. Ports that
// are dialled at different addresses may lead to one target, and ranges of them overlap there.
func (b *builder) enter(p mesh.PublishedPort, at netip.Addr) {
	if p.Last != 0 {
		b.spans.Add(plan.Ports{Addr: at, Proto: string(p.Proto), First: p.Target, Last: p.Last})
		return
	}
	set := b.table.Set("entered" + plan.Suffix(at))
	if key := plan.Join(at.String(), string(p.Proto), strconv.Itoa(int(p.Target))); !b.seen[set.Name+key] {
		b.seen[set.Name+key] = true
		set.Add(key)
	}
}

// entries puts the ranges of enter into their sets.
func (b *builder) entries() {
	for _, p := range b.spans.All() {
		b.table.Set("entered_range"+plan.Suffix(p.Addr)).Add(p.Addr.String(), p.Proto, p.Text())
	}
}
