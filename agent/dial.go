package agent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

// dial is what a client dials.
type dial struct {
	node  *mesh.Node
	to    netip.Addr
	port  uint16
	proto mesh.Proto
}

// client is who dials.
type client struct {
	addr netip.Addr
	via  string // the host's device by which it comes; "" where the node itself dials
}

const targetExample = "write NODE:PORT, NODE:PORT/udp, 192.0.2.1:8080, [2001:db8::1]:8080 or the name of a service"

// dials reads what is to be explained: one port of one node, or all ports of a service.
func (e *evidence) dials(target string, from netip.Addr) ([]dial, error) {
	if !strings.Contains(target, ":") {
		return e.servicePorts(target, from)
	}
	head, named, ok := strings.Cut(target, "/")
	d := dial{proto: mesh.TCP}
	if ok {
		d.proto = mesh.Proto(named)
	}
	if d.proto != mesh.TCP && d.proto != mesh.UDP && d.proto != mesh.SCTP {
		return nil, mesh.Refuse(mesh.BadValue, "use tcp, udp or sctp", "protocol %.20q is not known", string(d.proto))
	}
	colon := strings.LastIndex(head, ":")
	port, err := strconv.ParseUint(head[colon+1:], 10, 16)
	if err != nil || port == 0 {
		return nil, mesh.Refuse(mesh.BadValue, targetExample, "%.60q has no port from 1 to 65535", target)
	}
	d.port = uint16(port)
	if d.node, d.to, err = e.host(strings.Trim(head[:colon], "[]"), from); err != nil {
		return nil, err
	}
	return []dial{d}, nil
}

// host finds the node that a name, an ID or an address means, and at which
// address it is dialled.
func (e *evidence) host(text string, from netip.Addr) (*mesh.Node, netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err == nil {
		addr = addr.Unmap()
		if e.hasAddr(addr) {
			return e.self, addr, nil
		}
		for _, n := range e.snap.Nodes {
			if n.Addr == addr {
				return n, addr, nil
			}
		}
		return nil, addr, mesh.Refuse(mesh.NotFound, "run the command on the node that has it, or name the node", "no node is known to have the address %s", addr)
	}
	var found *mesh.Node
	for _, n := range e.snap.Nodes {
		if n.Name != text && string(n.ID) != text {
			continue
		}
		if found != nil {
			return nil, addr, mesh.Refuse(mesh.BadValue, "give the ID or the address, see sluice node ls", "several nodes are named %q", text)
		}
		found = n
	}
	if found == nil {
		return nil, addr, mesh.Refuse(mesh.NotFound, "see sluice node ls", "there is no node %.60q", text)
	}
	addr, err = e.address(found, from)
	return found, addr, err
}

// address is where a client dials a node: of the client's family, where it has one.
func (e *evidence) address(n *mesh.Node, from netip.Addr) (netip.Addr, error) {
	if !from.IsValid() || from.Is4() == n.Addr.Is4() {
		return n.Addr, nil
	}
	if n.ID == e.self.ID {
		for _, a := range e.addrs {
			addr := a.Prefix.Addr()
			if addr.Is4() == from.Is4() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && a.Link != plan.UplinkHost {
				return addr, nil
			}
		}
	}
	return n.Addr, mesh.Refuse(mesh.BadAddress, "give --from an address of the other family, or the node's address instead of its name",
		"node %s is known by %s only, which %s does not reach", n.Name, n.Addr, from)
}

// servicePorts are the ports that a service holds, dialled at this node.
func (e *evidence) servicePorts(name string, from netip.Addr) ([]dial, error) {
	service := e.snap.ServiceNamed(name)
	if service == nil {
		return nil, mesh.Refuse(mesh.NotFound, "see sluice service ls and sluice node ls; "+targetExample, "there is no service %.60q", name)
	}
	to, err := e.address(e.self, from)
	if err != nil {
		return nil, err
	}
	var dials []dial
	for _, f := range e.snap.Fronts {
		if f.Service.ID != service.ID {
			continue
		}
		d := dial{node: e.self, to: to, port: f.Port.Published, proto: f.Port.Proto}
		if a := f.Port.Addr; a.IsValid() {
			if from.IsValid() && from.Is4() != a.Is4() {
				continue
			}
			d.to = a
			if i := slices.IndexFunc(e.snap.Nodes, func(n *mesh.Node) bool { return n.Addr == a }); i >= 0 {
				d.node = e.snap.Nodes[i]
			}
		}
		dials = append(dials, d)
	}
	if len(dials) == 0 {
		return nil, mesh.Refuse(mesh.NotFound, "see sluice service inspect "+name, "service %q holds no published port that could be dialled", name)
	}
	return dials, nil
}

// clientOf says who dials, and by which of the host's devices it comes.
func (e *evidence) clientOf(d dial, from netip.Addr) (client, error) {
	switch {
	case !from.IsValid() && d.to.IsLoopback():
		return client{addr: d.to}, nil
	case !from.IsValid() && d.to.Is4():
		return client{netip.AddrFrom4([4]byte{203, 0, 113, 1}), trace.Outside}, nil // of the documentation's range
	case !from.IsValid():
		return client{netip.MustParseAddr("2001:db8:ffff::1"), trace.Outside}, nil
	case from.Is4() != d.to.Is4():
		return client{}, mesh.Refuse(mesh.BadAddress, "give --from an address of the same family", "%s cannot dial %s", from, d.to)
	case from.IsLoopback() || from == d.node.Addr:
		return client{addr: from}, nil
	}
	for _, endpoint := range e.snap.Endpoints {
		for _, a := range endpoint.Attached {
			if a.V4 == from || a.V6 == from {
				return e.endpointClient(d, endpoint, client{addr: from}, a.Network)
			}
		}
	}
	if d.node.ID != e.self.ID {
		return client{from, trace.Outside}, nil // its bridges and other addresses are not known here
	}
	if e.hasAddr(from) {
		return client{addr: from}, nil
	}
	for _, a := range e.addrs {
		if a.Prefix.Masked().Contains(from) && slices.Contains(e.bridges, a.Link) {
			return client{from, a.Link}, nil
		}
	}
	return client{from, trace.Outside}, nil
}

// endpointClient is an endpoint that dials: it comes by its network's way out, and to
// other nodes with its own node's address.
func (e *evidence) endpointClient(d dial, endpoint *mesh.Endpoint, c client, on mesh.NetworkID) (client, error) {
	if endpoint.Node != d.node.ID {
		seen := "its node's address"
		if n := e.snap.Node(endpoint.Node); n != nil {
			seen = n.Addr.String()
		}
		return c, mesh.Refuse(mesh.BadAddress, "give --from "+seen, "%s is endpoint %q of another node, which shows its own address instead", c.addr, endpoint.Name)
	}
	n := e.snap.Network(on)
	if n == nil {
		return c, mesh.Refuse(mesh.NotFound, "see sluice network ls", "the network of %s is gone", c.addr)
	}
	c.via = plan.WayOutHost(uint32(n.VNI))
	return c, nil
}
