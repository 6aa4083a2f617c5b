package kernel

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

type linkMAC struct {
	link string
	mac  plan.MAC
}

func fdbKey(f plan.FDBEntry) linkMAC { return linkMAC{f.Link, f.MAC} }

// tunnel is what an FDB entry leaves out where it equals the device's own.
type tunnel struct {
	name string
	vni  uint32
	port uint16
}

// tunnels maps our VXLAN devices by index.
func (n *namespace) tunnels() (map[int]tunnel, error) {
	links, err := n.list()
	if err != nil {
		return nil, err
	}
	found := map[int]tunnel{}
	for _, l := range links {
		if vx, ok := l.(*netlink.Vxlan); ok && n.ours(l) {
			found[vx.Index] = tunnel{vx.Name, uint32(vx.VxlanId), uint16(vx.Port)}
		}
	}
	return found, nil
}

// observeFDB lists the entries of our VXLAN devices. The library knows no UDP
// port of an entry, so the messages are read here.
func (n *namespace) observeFDB() ([]plan.FDBEntry, error) {
	tunnels, err := n.tunnels()
	if err != nil || len(tunnels) == 0 {
		return nil, err
	}
	var found []plan.FDBEntry
	err = n.do(func() error {
		messages, err := retryDump(func() ([][]byte, error) {
			request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
			request.AddData(&netlink.Ndmsg{Family: unix.AF_BRIDGE})
			return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
		})
		if err != nil {
			return fmt.Errorf("list forwarding entries of %s: %w", n.name, err)
		}
		for _, m := range messages {
			entry, ok, err := parseFDB(m, tunnels)
			if err != nil {
				return err
			}
			if ok {
				found = append(found, entry)
			}
		}
		return nil
	})
	return found, err
}

const sizeofNdmsg = 12

func parseFDB(message []byte, tunnels map[int]tunnel) (entry plan.FDBEntry, ok bool, err error) {
	if len(message) < sizeofNdmsg {
		return entry, false, fmt.Errorf("forwarding entry has %d bytes", len(message))
	}
	tunnel, ours := tunnels[int(int32(binary.NativeEndian.Uint32(message[4:8])))]
	if !ours {
		return entry, false, nil
	}
	attrs, err := nl.ParseRouteAttr(message[sizeofNdmsg:])
	if err != nil {
		return entry, false, fmt.Errorf("read forwarding entry: %w", err)
	}
	entry = plan.FDBEntry{Link: tunnel.name, VNI: tunnel.vni, Port: tunnel.port}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == netlink.NDA_LLADDR && len(a.Value) == len(entry.MAC):
			copy(entry.MAC[:], a.Value)
		case a.Attr.Type == netlink.NDA_DST:
			entry.Dst, _ = netip.AddrFromSlice(a.Value)
		case a.Attr.Type == netlink.NDA_VNI && len(a.Value) == 4:
			entry.VNI = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == netlink.NDA_PORT && len(a.Value) == 2:
			entry.Port = binary.BigEndian.Uint16(a.Value)
		}
	}
	return entry, entry.Dst.IsValid(), nil
}

func (n *namespace) doFDB(verb Verb, want plan.FDBEntry) error {
	index, err := n.index(want.Link)
	if err != nil {
		return orAbsent(verb, err)
	}
	kind, flags := unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE
	if verb == Delete {
		kind, flags = unix.RTM_DELNEIGH, 0
	}
	return orAbsent(verb, n.do(func() error {
		request := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
		request.AddData(&netlink.Ndmsg{
			Family: unix.AF_BRIDGE, Index: uint32(index), State: netlink.NUD_PERMANENT | netlink.NUD_NOARP, Flags: netlink.NTF_SELF,
		})
		request.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, want.MAC[:]))
		request.AddData(nl.NewRtAttr(netlink.NDA_DST, want.Dst.AsSlice()))
		request.AddData(nl.NewRtAttr(netlink.NDA_VNI, nl.Uint32Attr(want.VNI)))
		request.AddData(nl.NewRtAttr(netlink.NDA_PORT, binary.BigEndian.AppendUint16(nil, want.Port)))
		_, err := request.Execute(unix.NETLINK_ROUTE, 0)
		return err
	}))
}
