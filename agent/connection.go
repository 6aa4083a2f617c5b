package agent

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// connection is what an endpoint is to be on one network, read but not yet compared with what
// is there.
type connection struct {
	network string       // name or ID
	asks    mesh.Joined  // but for the network's ID
	fixed   []netip.Addr // sorted
}

func fromConnections(list []*sluicev1.Connection) ([]connection, error) {
	connections := make([]connection, 0, len(list))
	for _, c := range list {
		next, err := fromConnection(c)
		if err != nil {
			return nil, err
		}
		connections = append(connections, next)
	}
	return connections, nil
}

func fromConnection(c *sluicev1.Connection) (connection, error) {
	fixed, err := fromAddrs(c.GetAddresses())
	if err != nil {
		return connection{}, err
	}
	asks := mesh.Joined{Interface: c.GetInterface(), Aliases: c.GetAliases(), Gateway: int(c.GetGatewayPriority())}
	if asks.MAC, err = fromMAC(c.GetMac()); err != nil {
		return connection{}, err
	}
	for _, text := range c.GetSysctls() {
		s, err := fromSysctl(text)
		if err != nil {
			return connection{}, err
		}
		asks.Sysctls = append(asks.Sysctls, s)
	}
	slices.SortFunc(asks.Sysctls, func(a, b mesh.InterfaceSysctl) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
	})
	slices.Sort(asks.Aliases)
	return connection{network: c.GetNetwork(), asks: asks, fixed: fixed}, nil
}

// fromMAC reads a hardware address; an empty text is none.
func fromMAC(text string) (mac [6]byte, err error) {
	if text == "" {
		return mac, nil
	}
	read, err := net.ParseMAC(text)
	if err != nil || len(read) != len(mac) || [6]byte(read) == mac {
		return mac, mesh.Refuse(mesh.BadAddress, "write six bytes, such as 02:53:00:00:00:01", "%.40q is no hardware address of an interface", text)
	}
	return [6]byte(read), nil
}

// anyInterface stands for the interface in a setting's name: its real one is not known when the
// setting is written, and the kernel takes dots in it.
const anyInterface = "IFNAME"

// fromSysctl reads net.FAMILY.TABLE.IFNAME.KEY=VALUE. Which of them there are is package mesh's to
// say.
func fromSysctl(text string) (mesh.InterfaceSysctl, error) {
	name, value, given := strings.Cut(text, "=")
	parts := strings.Split(name, ".")
	if !given || len(parts) != 5 || parts[0] != "net" || parts[3] != anyInterface {
		return mesh.InterfaceSysctl{}, mesh.Refuse(mesh.BadValue, "write it like net.ipv4.conf."+anyInterface+".log_martians=1, with "+anyInterface+" as it stands here",
			"%.80q is no setting of an interface", text)
	}
	return mesh.InterfaceSysctl{Family: parts[1], Table: parts[2], Key: parts[4], Value: value}, nil
}

func sysctlText(s mesh.InterfaceSysctl) string {
	return strings.Join([]string{"net", s.Family, s.Table, anyInterface, s.Key}, ".") + "=" + s.Value
}

// connect is the endpoint with one more network, or with what it is to be on one of its service's.
// It changes neither e nor what e holds.
func (c connection) connect(snap *mesh.Snapshot, e *mesh.Endpoint, service *mesh.Service) (*mesh.Endpoint, error) {
	n := snap.NetworkNamed(c.network)
	if n == nil {
		return nil, noNetwork(c.network)
	}
	used := slices.Contains(service.Uses(), n.ID)
	if n.Ingress() && !used {
		return nil, mesh.Refuse(mesh.BadValue, "publish a port of the service: that puts its endpoints on it", "the ingress network is not one to connect to")
	}
	if j, twice := e.JoinedTo(n.ID); twice && (used || !j.ByService) {
		return nil, mesh.Refuse(mesh.BadValue, "name each network once", "network %q is named twice", n.Name)
	}
	for _, a := range c.fixed {
		if !n.Contains(a) {
			return nil, mesh.Refuse(mesh.BadAddress, "give an address of one of its subnets: "+strings.Join(prefixTexts(n.Subnets()), ", "), "%s is not in network %q", a, n.Name)
		}
	}
	next := *e
	if _, over := e.JoinedTo(n.ID); over { // what it was there while its service was
		next = *disconnected(e, n.ID, n, snap)
	}
	asks := c.asks
	asks.Network, asks.ByService = n.ID, used
	next.Joined = append(slices.Clone(next.Joined), asks)
	slices.SortFunc(next.Joined, func(a, b mesh.Joined) int { return cmp.Compare(a.Network, b.Network) })
	next.Fixed = append(slices.Clone(next.Fixed), c.fixed...)
	slices.SortFunc(next.Fixed, netip.Addr.Compare)
	next.Fixed = slices.Compact(next.Fixed)
	return &next, nil
}

// disconnected is the endpoint without what it asks of a network. n is nil where the network is gone
// or not built: then every address that no network has any more is taken to have been for it. One that
// stayed would be asked for for good, and keep the endpoint from having others.
func disconnected(e *mesh.Endpoint, id mesh.NetworkID, n *mesh.Network, snap *mesh.Snapshot) *mesh.Endpoint {
	next := *e
	next.Joined = slices.DeleteFunc(slices.Clone(e.Joined), func(j mesh.Joined) bool { return j.Network == id })
	theirs := func(a netip.Addr) bool {
		if n != nil {
			return n.Contains(a)
		}
		return !slices.ContainsFunc(snap.Networks, func(other *mesh.Network) bool { return other.ID != id && other.Contains(a) })
	}
	next.Fixed = slices.DeleteFunc(slices.Clone(e.Fixed), theirs)
	return &next
}

// linkName is what an endpoint's interface on a network is called.
func linkName(e *mesh.Endpoint, n *mesh.Network) string {
	asks, _ := e.JoinedTo(n.ID)
	switch {
	case asks.Interface != "":
		return asks.Interface
	case n.Ingress():
		return plan.IngressLink
	case n.Bridged():
		return plan.BridgedLink(string(n.ID))
	default:
		return plan.NetworkLink(uint32(n.VNI))
	}
}

// driverOf is the driver of a network, also of one whose record is of before there were several.
func driverOf(n *mesh.Network) string { return cmp.Or(string(n.Driver), string(mesh.Overlay)) }

// toAttachment is an endpoint's interface on a network; service is nil where it is gone.
func toAttachment(e *mesh.Endpoint, service *mesh.Service, a mesh.Attachment, snap *mesh.Snapshot) *sluicev1.Attachment {
	out := &sluicev1.Attachment{Network: networkName(snap, a.Network), Addresses: []string{a.V4.String(), a.V6.String()}}
	if n := snap.Network(a.Network); n != nil {
		out.Interface, out.Driver = linkName(e, n), driverOf(n)
	}
	asks, joined := e.JoinedTo(a.Network)
	if joined {
		out.Connected = service == nil || !slices.Contains(service.Uses(), a.Network)
		out.Mac, out.GatewayPriority, out.Aliases = plan.MAC(asks.MAC).String(), int32(asks.Gateway), asks.Aliases
		for _, s := range asks.Sysctls {
			out.Sysctls = append(out.Sysctls, sysctlText(s))
		}
	}
	return out
}
