package plan

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
)

// What is ours in a kernel, and how it is told from what is not. Nothing
// without one of these marks is ever looked at for deletion.
const (
	TableName     = "sluice"          // nft tables, every family
	LockTable     = "sluice-lock"     // the host's Sandbox.Lock
	LinkAlias     = "sluice"          // alias of each device we make in the host
	EndpointAlias = "sluice endpoint" // alias of those in endpoints, which may be hosts of agents of their own
	RouteProtocol = 83                // rtm_protocol of our routes, fra_protocol of our rules and ifa_proto's stand-in; 'S'; free in iproute2's rt_protos
)

// HostLinks begins the names of all our devices in the host and of no other.
const HostLinks = "sl-"

// Names of sandboxes and of the devices in them.
const (
	HostSandbox    = "host"
	IngressSandbox = "ingress-sbox"

	UplinkHost = HostLinks + "ingress" // host's end of the way into ingress-sbox
	Uplink     = "uplink"              // ingress-sbox's end of it
	Tunnel     = "vx"                  // the VXLAN device in a sandbox
	DoorOut    = "door"                // ingress-sbox's veth to this node's own endpoints
	DoorIn     = "entry"               // the other end, in the sandbox of the ingress network
	WayOut     = "out"                 // a network sandbox's veth to the host
)

// The sets of the host's inet table that say which ports are captured: what makes a
// port answer.
const (
	Published    = "published"     // on every address
	PublishedAt4 = "published_at4" // on one, and the uplink's address for it
	PublishedAt6 = "published_at6"
)

// Over4 and Over6 are the sets, in the sandbox of the ingress network, of the clients whose
// flows by one entry node are over and will come by another.
const (
	Over4 = "over4"
	Over6 = "over6"
)

// Link-local addresses that are the same on every node.
//
//	169.254.77.1, fd77::1   host's end of the uplink     .2, ::2  ingress-sbox     .3 up  one per published address
//	169.254.78.1, fd78::1   next hop on a way out; on the host's end only where ports lead there
//	169.254.1.1, fe80::1    next hop of every endpoint, answered by proxy ARP and by our end's own address
func Gateway4() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 1, 1}) }

// Gateway6 is the endpoints' IPv6 next hop.
func Gateway6() netip.Addr { return netip.MustParseAddr("fe80::1") }

// WayOut4 and WayOut6 are a network sandbox's next hops towards the host.
func WayOut4() netip.Addr { return netip.AddrFrom4([4]byte{169, 254, 78, 1}) }

// WayOut6 is the IPv6 one.
func WayOut6() netip.Addr { return netip.MustParseAddr("fd78::1") }

// Uplink4 is the n-th address of the uplink: 1 the host, 2 ingress-sbox.
func Uplink4(n byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 77, n}), 24)
}

// Uplink6 is the n-th IPv6 address of the uplink.
func Uplink6(n byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: n}), 112)
}

// OnUplink tells whether an address is one of the uplink's.
func OnUplink(a netip.Addr) bool {
	return Uplink4(0).Masked().Contains(a) || Uplink6(0).Masked().Contains(a)
}

// The numbers of the uplink's addresses.
const (
	UplinkHostNumber    = 1
	UplinkSandboxNumber = 2
	UplinkFirstSpare    = 3 // from here to UplinkLast: one per published address
	UplinkLast          = 254
)

// Marks on packets. The top bit says "a reply on its way back through the
// tunnel to node slot N"; a service's mark never has it. Nobody else's bits are
// used outside our own sandboxes, where no other program sets marks.
const ReplyMark uint32 = 1 << 31

// EndpointLinks begins the names of all EndpointLink devices and of no other.
const EndpointLinks = "ep"

// NetworkSandboxes begins the names of all network sandboxes and of no other.
const NetworkSandboxes = "sluice-"

// NetworkSandbox names the sandbox of the overlay network with this VNI.
func NetworkSandbox(vni uint32) string { return NetworkSandboxes + strconv.Itoa(int(vni)) }

// WayOutHosts begins the names of all WayOutHost devices and of no other.
const WayOutHosts = HostLinks + "o"

// WayOutHost names the host's end of a network sandbox's way out.
func WayOutHost(vni uint32) string { return WayOutHosts + strconv.Itoa(int(vni)) }

// EndpointSandbox names an endpoint's pinned namespace. The ID is of our own
// making (hex), so that no name somebody chose becomes a path.
func EndpointSandbox(id string) string { return "ep-" + id }

// EndpointID is the inverse of EndpointSandbox.
func EndpointID(sandbox string) (string, bool) { return strings.CutPrefix(sandbox, "ep-") }

// EndpointLink names the sandbox's end of the veth to an endpoint: EndpointLinks and the
// endpoint's IPv4 address in hex, which is unique on the network.
func EndpointLink(addr netip.Addr) string {
	a := addr.As4()
	return EndpointLinks + hex.EncodeToString(a[:])
}

// IngressLink is the endpoint's interface on the ingress network, NetworkLink
// the one on another: named by VNI, so that attaching one renames none.
const IngressLink = "sluice0"

// NetworkLink names the endpoint's interface on a user network.
func NetworkLink(vni uint32) string { return fmt.Sprintf("sl%x", vni) }

// InEndpoint tells whether a device is named as those that we put into endpoints,
// and not as those of a host.
func InEndpoint(link string) bool {
	return strings.HasPrefix(link, "sl") && !strings.HasPrefix(link, HostLinks)
}

// BridgeLinks begins the names of all BridgeLink devices and of no other, and BridgePorts those
// of all BridgePort devices.
const (
	BridgeLinks = HostLinks + "b"
	BridgePorts = HostLinks + "p"
)

// The devices in the namespace of a network's bridge, beside the endpoints' ports.
const (
	Bridge     = "br"
	BridgeHost = "host" // the port that the host is behind
)

// BridgeSandbox names the namespace in which a node's bridge of a network is.
func BridgeSandbox(network string) string {
	return NetworkSandboxes + "b" + network[len(network)-idPart:]
}

// idPart is how many characters of an ID fit into a device's name (15) behind a prefix.
const idPart = 11

// BridgeLink names the host's interface on its bridge of the network with this ID. Networks
// whose IDs end alike would have one: package bridge builds only one of them.
func BridgeLink(network string) string { return BridgeLinks + network[len(network)-idPart:] }

// BridgePort names the bridge's end of the veth from an endpoint.
func BridgePort(endpoint, network string) string {
	h := fnv.New64a()
	h.Write([]byte(endpoint + " " + network))
	return BridgePorts + fmt.Sprintf("%016x", h.Sum64())[:idPart]
}

// BridgedLink names the endpoint's interface on a bridge where nobody chose another name.
func BridgedLink(network string) string { return "slb" + network[len(network)-idPart:] }

// BridgedMAC is the hardware address of an endpoint on a bridge where nobody chose another: of
// its IPv4 address, so that neighbours who remember it are right after a restart.
func BridgedMAC(addr netip.Addr) MAC {
	a := addr.As4()
	return MAC{0x02, 0x53, a[0], a[1], a[2], a[3]}
}

// MAC is a 48-bit hardware address; the zero value means none.
type MAC [6]byte

// The MAC addresses of tunnel ends are made from the node's slot, so that a
// peer knows them without being told.
//
//	02:53:e0:00:SS:SS  ingress-sbox's end      02:53:d0:00:SS:SS  a network sandbox's end
func tunnelMAC(kind byte, slot uint16) MAC {
	return MAC{0x02, 0x53, kind, 0, byte(slot >> 8), byte(slot)}
}

// EntryMAC is ingress-sbox's tunnel end on the node with this slot.
func EntryMAC(slot uint16) MAC { return tunnelMAC(0xe0, slot) }

// NetworkMAC is a network sandbox's tunnel end on the node with this slot.
func NetworkMAC(slot uint16) MAC { return tunnelMAC(0xd0, slot) }

// VethMAC are the fixed addresses of our point-to-point veth pairs. Every pair is
// a link of its own, so all may use the same two; a permanent neighbour entry can
// then be planned without asking the kernel.
func VethMAC(end VethEnd) MAC { return MAC{0x02, 0x53, 0xa0, 0, 0, byte(end)} }

// VethEnd is one end of a point-to-point pair.
type VethEnd byte

// The two ends.
const (
	NearHost    VethEnd = 1
	NearSandbox VethEnd = 2
)

// String is the usual colon form; "" for none.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// HexMark is the text form of a mark.
func HexMark(m uint32) string { return "0x" + strconv.FormatUint(uint64(m), 16) }

// ForeignSource are the rules that drop what comes in by a tunnel device (or
// several, as an nft set) from an address outside the sending node's blocks:
// sets blocks4 and blocks6 of MAC and block address. A block is compared by its
// masked address, so the sets stay exact and need no interval tree.
func ForeignSource(devices string, bits4 int) []string {
	mask := netip.PrefixFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), bits4).Masked().Addr()
	return []string{
		fmt.Sprintf(`iifname %s meta nfproto ipv4 ether saddr . ip saddr & %s != @blocks4 counter drop`, devices, mask),
		fmt.Sprintf(`iifname %s meta nfproto ipv6 ether saddr . ip6 saddr & ffff:ffff:ffff:ffff:: != @blocks6 counter drop`, devices),
	}
}
