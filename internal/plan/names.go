package plan

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// What is ours in a kernel, and how it is told from what is not. Nothing
// without one of these marks is ever looked at for deletion.
const (
	TableName     = "sluice" // nft tables, every family
	LinkAlias     = "sluice" // alias of each device we make outside our own sandboxes
	RouteProtocol = 83       // rtm_protocol of our routes and ifa_proto's stand-in; 'S'; free in iproute2's rt_protos
)

// Names of sandboxes and of the devices in them.
const (
	HostSandbox    = "host"
	IngressSandbox = "ingress-sbox"

	UplinkHost = "sl-ingress" // host's end of the way into ingress-sbox
	Uplink     = "uplink"     // ingress-sbox's end of it
	Tunnel     = "vx"         // the VXLAN device in a sandbox
	DoorOut    = "door"       // ingress-sbox's veth to this node's own endpoints
	DoorIn     = "entry"      // the other end, in the sandbox of the ingress network
	WayOut     = "out"        // a network sandbox's veth to the host
	Gateway4   = "169.254.1.1"
	Gateway6   = "fe80::1"
)

// Marks on packets. The top bit says "a reply on its way back through the
// tunnel to node slot N"; a service's mark never has it. Nobody else's bits are
// used outside our own sandboxes, where no other program sets marks.
const ReplyMark uint32 = 1 << 31

// NetworkSandbox names the sandbox of the overlay network with this VNI.
func NetworkSandbox(vni uint32) string { return fmt.Sprintf("sluice-%d", vni) }

// WayOutHost names the host's end of a network sandbox's way out.
func WayOutHost(vni uint32) string { return fmt.Sprintf("sl-o%d", vni) }

// EndpointSandbox names an endpoint's pinned namespace. The ID is of our own
// making (hex), so that no name somebody chose becomes a path.
func EndpointSandbox(id string) string { return "ep-" + id }

// EndpointID is the inverse of EndpointSandbox.
func EndpointID(sandbox string) (string, bool) { return strings.CutPrefix(sandbox, "ep-") }

// EndpointLink names the sandbox's end of the veth to an endpoint: e and the
// endpoint's IPv4 address, which is unique on the network and reads well.
func EndpointLink(addr netip.Addr) string {
	a := addr.As4()
	return "e" + hex.EncodeToString(a[:])
}

// IngressLink is the endpoint's interface on the ingress network, NetworkLink
// the one on another: named by VNI, so that attaching one renames none.
const IngressLink = "sluice0"

// NetworkLink names the endpoint's interface on a user network.
func NetworkLink(vni uint32) string { return fmt.Sprintf("sl%x", vni) }

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
func HexMark(m uint32) string { return fmt.Sprintf("0x%x", m) }
