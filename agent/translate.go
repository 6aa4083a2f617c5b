package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// The functions below are all that turns mesh types into those of the API and back.

func toNode(n *mesh.Node, snap *mesh.Snapshot, seen standing, self mesh.NodeID) *sluicev1.Node {
	out := toLoneNode(n, seen, self)
	out.Endpoints = uint32(len(snap.Local(n.ID)))
	return out
}

// toLoneNode is toNode without the number of its endpoints.
func toLoneNode(n *mesh.Node, seen standing, self mesh.NodeID) *sluicev1.Node {
	return &sluicev1.Node{
		Id: string(n.ID), Name: n.Name, Address: n.Addr.String(), VxlanPort: uint32(n.VXLANPort), Mtu: uint32(n.MTU),
		Slot: uint32(n.Slot), State: toNodeState(seen.presence), Self: n.ID == self, GossipPort: uint32(n.GossipPort), Since: toTime(seen.since),
		Held: toHeld(n),
	}
}

func toNodeState(p presence) sluicev1.NodeState {
	switch p {
	case presenceAlive:
		return sluicev1.NodeState_NODE_STATE_ALIVE
	case presenceAgentDown:
		return sluicev1.NodeState_NODE_STATE_AGENT_DOWN
	case presenceGone:
		return sluicev1.NodeState_NODE_STATE_GONE
	case presenceSilent:
	}
	return sluicev1.NodeState_NODE_STATE_SILENT
}

// nodes are all nodes of the cluster, sorted by name.
func (a *api) nodes(snap *mesh.Snapshot) []*sluicev1.Node {
	nodes := make([]*sluicev1.Node, 0, len(snap.Nodes))
	for _, n := range snap.Nodes {
		nodes = append(nodes, toNode(n, snap, a.loop.pulse.standing(n.ID), a.cluster.own.ID))
	}
	sortByName(nodes)
	return nodes
}

// ownNode is this node as the cluster knows it.
func (a *api) ownNode(snap *mesh.Snapshot) *sluicev1.Node {
	n := snap.Node(a.cluster.own.ID)
	if n == nil {
		self := a.cluster.self()
		n = &self
	}
	return toNode(n, snap, a.loop.pulse.standing(n.ID), n.ID)
}

func toNetwork(n *mesh.Network, snap *mesh.Snapshot) *sluicev1.Network {
	out := &sluicev1.Network{
		Id: string(n.ID), Name: n.Name, Subnets: prefixTexts(n.Subnets()),
		Vni: uint32(n.VNI), Mtu: uint32(mtuOf(n, snap)), Ingress: n.Ingress(), Driver: driverOf(n),
		Internal: n.Internal, NoIcc: n.Apart, DirectRouting: n.Routed,
		Conflicts: conflicts(snap, mesh.KindNetwork, string(n.ID)),
	}
	for _, a := range []netip.Addr{n.Gateway4, n.Gateway6} {
		if a.IsValid() {
			out.Gateways = append(out.Gateways, a.String())
		}
	}
	for _, s := range usersOf(snap, n.ID) {
		out.Services = append(out.Services, s.Name)
	}
	return out
}

// mtuOf is the greatest packet of a network's endpoints; 0 where each node chooses its own.
func mtuOf(n *mesh.Network, snap *mesh.Snapshot) int {
	fits := mesh.OverlayMTU(snap.Nodes)
	switch {
	case n.Bridged():
		return n.MTU
	case n.MTU != 0:
		return min(n.MTU, fits)
	default:
		return fits
	}
}

func prefixTexts(list []netip.Prefix) []string {
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return texts
}

// usersOf are the services whose endpoints have an interface on a network, by name.
func usersOf(snap *mesh.Snapshot, id mesh.NetworkID) []*mesh.Service {
	var users []*mesh.Service
	for _, s := range snap.Services {
		if slices.Contains(s.Uses(), id) {
			users = append(users, s)
		}
	}
	slices.SortFunc(users, func(a, b *mesh.Service) int { return cmp.Compare(a.Name, b.Name) })
	return users
}

func toService(s *mesh.Service, snap *mesh.Snapshot) *sluicev1.Service {
	out := toLoneService(s, snap)
	for _, e := range snap.EndpointsOf(s.ID) {
		out.Endpoints = append(out.Endpoints, toEndpoint(e, snap))
	}
	sortByName(out.Endpoints)
	return out
}

// toLoneService is toService without its endpoints.
func toLoneService(s *mesh.Service, snap *mesh.Snapshot) *sluicev1.Service {
	out := &sluicev1.Service{
		Id: string(s.ID), Name: s.Name, Scheduler: string(s.Scheduler),
		Aliases: s.Aliases, Stack: s.Stack, EndpointMode: string(cmp.Or(s.Mode, mesh.VirtualIP)),
		Conflicts: conflicts(snap, mesh.KindService, string(s.ID)),
	}
	if s.Affinity != 0 {
		out.Affinity = durationpb.New(s.Affinity)
	}
	for _, id := range s.Uses() {
		if id != mesh.IngressNetwork {
			out.Networks = append(out.Networks, networkName(snap, id))
		}
	}
	slices.Sort(out.Networks)
	for _, id := range s.Networks {
		if v, ok := snap.Virtual(s.ID, id); ok {
			out.VirtualAddresses = append(out.VirtualAddresses, &sluicev1.VirtualAddress{Network: networkName(snap, id), Addresses: []string{v.V4.String(), v.V6.String()}})
		}
	}
	slices.SortFunc(out.VirtualAddresses, func(a, b *sluicev1.VirtualAddress) int { return cmp.Compare(a.GetNetwork(), b.GetNetwork()) })
	for _, p := range s.Publish {
		out.Ports = append(out.Ports, toPublished(p))
	}
	for _, h := range snap.HeldOf(s) {
		out.Held = append(out.Held, toHeldPort(h))
	}
	return out
}

func toPublished(p mesh.PublishedPort) *sluicev1.PublishedPort {
	port := &sluicev1.PublishedPort{Protocol: string(p.Proto), Published: uint32(p.Published), Target: uint32(p.Target), Last: uint32(p.Last), Mode: modeIngress}
	if p.Mode != mesh.Meshed {
		port.Mode = string(p.Mode)
	}
	if p.Addr.IsValid() {
		port.Address = p.Addr.String()
	}
	if sources := p.Sources.Prefixes(); len(sources) > 0 {
		port.Sources = prefixTexts(sources)
	}
	return port
}

// modeIngress is what mesh.Meshed is called where it does not go without saying.
const modeIngress = "ingress"

func toEndpoint(e *mesh.Endpoint, snap *mesh.Snapshot) *sluicev1.Endpoint {
	out := &sluicev1.Endpoint{
		Id: string(e.ID), Name: e.Name, Service: string(e.Service), Node: string(e.Node),
		State: string(e.State), Weight: uint32(e.Weight), Conflicts: conflicts(snap, mesh.KindEndpoint, string(e.ID)),
	}
	service := snap.Service(e.Service)
	if service != nil {
		out.Service = service.Name
	}
	if n := snap.Node(e.Node); n != nil {
		out.Node = n.Name
	}
	for _, a := range e.Fixed {
		out.Fixed = append(out.Fixed, a.String())
	}
	if err := snap.Unmet(e); err != nil {
		out.Conflicts = append(out.Conflicts, err.Error())
	}
	gateway, routed := snap.Gateway(e)
	for _, a := range e.Attached {
		attached := toAttachment(e, service, a, snap)
		attached.DefaultRoute = routed && a.Network == gateway.Network
		out.Attachments = append(out.Attachments, attached)
	}
	return out
}

// networkName is the ID where the network is gone.
func networkName(snap *mesh.Snapshot, id mesh.NetworkID) string {
	if n := snap.Network(id); n != nil {
		return n.Name
	}
	if id == mesh.DefaultBridge { // a service can be on it before it is there
		return mesh.DefaultBridgeName
	}
	return string(id)
}

func conflicts(snap *mesh.Snapshot, kind mesh.Kind, id string) []string {
	var lines []string
	for _, c := range snap.Conflicts {
		if c.Kind == kind && c.ID == id {
			lines = append(lines, snap.Explain(c))
		}
	}
	return lines
}

func toProblems(problems []problem) []*sluicev1.Problem {
	out := make([]*sluicev1.Problem, len(problems))
	for i, p := range problems {
		out[i] = &sluicev1.Problem{Object: p.object, Reason: p.reason, Detail: p.detail, Since: toTime(p.since)}
	}
	return out
}

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func sortByName[T interface{ GetName() string }](list []T) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) })
}

// fromPrefix reads an IPv4 prefix; an empty text is the default. what names it
// to the person who gave it.
func fromPrefix(what, text string, otherwise netip.Prefix) (netip.Prefix, error) {
	if text == "" {
		return otherwise, nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().Is4() || p.Masked() != p {
		return netip.Prefix{}, mesh.Refuse(mesh.BadAddress, "write ADDRESS/LENGTH without host bits, such as 10.9.0.0/20", "%s %.60q is no IPv4 prefix", what, text)
	}
	return p, nil
}

// fromSubnets reads prefixes of both families.
func fromSubnets(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Masked() != p || p.Addr().Is4In6() {
			return nil, mesh.Refuse(mesh.BadAddress, "write ADDRESS/LENGTH without host bits, such as 10.9.0.0/20", "subnet %.60q is no prefix", text)
		}
		list = append(list, p)
	}
	return list, nil
}

// fromAddrs reads addresses and sorts them.
func fromAddrs(texts []string) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, mesh.Refuse(mesh.BadAddress, "write one like 10.9.0.5 or fd00::5", "%.60q is no address", text)
		}
		list = append(list, a.Unmap())
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list), nil
}

// fromAddrPort reads ADDR or ADDR:PORT.
func fromAddrPort(text string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	ap, err := netip.ParseAddrPort(text)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, mesh.Refuse(mesh.BadAddress, "write ADDR or ADDR:PORT, an IPv6 address with a port in brackets", "%.60q is no address", text)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
