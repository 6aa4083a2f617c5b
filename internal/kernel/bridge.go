package kernel

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// makeBridge makes a bridge that has one address, whatever ports come and go, and one MTU:
// the kernel would follow the smallest of its ports until somebody has changed it.
// That is why it is born with another one; setLink changes it.
func (n *namespace) makeBridge(attrs netlink.LinkAttrs, want plan.Link) error {
	snooping := false
	if attrs.MTU++; attrs.MTU > largestMTU {
		attrs.MTU -= 2
	}
	if attrs.HardwareAddr == nil {
		mac := bridgeMAC(want.Name)
		attrs.HardwareAddr = mac[:]
	}
	if err := n.link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	return nil
}

// bridgeMAC is the address of a bridge whose plan says none: endpoints that remember their
// gateway are right after it was made anew.
func bridgeMAC(name string) plan.MAC {
	h := fnv.New32a()
	h.Write([]byte(name))
	sum := h.Sum32()
	return plan.MAC{0x02, 0x53, 0xb0, byte(sum >> 16), byte(sum >> 8), byte(sum)}
}

// plain tells whether a bridge forwards as ours do: without looking into multicast groups,
// for which nobody would ask.
func plain(b *netlink.Bridge) bool { return b.MulticastSnooping == nil || !*b.MulticastSnooping }

// setPort brings what a device is on a bridge, or as one, to what the plan says. A port gets
// its isolation before it is up.
func (n *namespace) setPort(have netlink.Link, want plan.Link) error {
	if bridge, ok := have.(*netlink.Bridge); ok && !plain(bridge) {
		// All else that was read of it is left out: a kernel may refuse what it has itself told.
		only := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		only.Name = bridge.Name
		if err := n.link.BridgeSetMcastSnoop(only, false); err != nil {
			return fmt.Errorf("set multicast snooping off: %w", err)
		}
	}
	master := 0
	if want.Master != "" {
		var err error
		if master, err = n.index(want.Master); err != nil {
			return err
		}
	}
	isNew := have.Attrs().MasterIndex != master
	if isNew {
		if err := n.link.LinkSetMasterByIndex(have, master); err != nil {
			return fmt.Errorf("make it a port of %q: %w", want.Master, err)
		}
		n.stages.reach("master set")
	}
	if master == 0 || isNew && !want.Isolated {
		return nil
	}
	if err := n.link.LinkSetIsolated(have, want.Isolated); err != nil {
		return fmt.Errorf("set isolation: %w", err)
	}
	return nil
}

// port is what a device is on a bridge; the zero value where it is none's.
type port struct {
	master   string
	isolated bool
}

// ports are those of the devices that are ports, by index.
func (n *namespace) ports(links []netlink.Link) (map[int]port, error) {
	names := make(map[int]string, len(links))
	bridged := false
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		bridged = bridged || l.Attrs().MasterIndex != 0
	}
	if !bridged {
		return nil, nil
	}
	isolated, err := n.isolated()
	if err != nil {
		return nil, err
	}
	found := map[int]port{}
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex != 0 {
			found[a.Index] = port{master: names[a.MasterIndex], isolated: isolated[a.Index]}
		}
	}
	return found, nil
}

// brportIsolated is IFLA_BRPORT_ISOLATED.
const brportIsolated = 33

// isolated are the ports that do not reach other such ones, by index. They stand in the
// bridge's own messages, which the library reads one device at a time.
func (n *namespace) isolated() (map[int]bool, error) {
	found := map[int]bool{}
	err := n.do(func() error {
		messages, err := retryDump(func() ([][]byte, error) {
			request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
			request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
			return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		})
		if err != nil {
			return fmt.Errorf("list bridge ports of %s: %w", n.name, err)
		}
		for _, m := range messages {
			if len(m) >= unix.SizeofIfInfomsg && isolatedPort(m) {
				found[int(int32(binary.NativeEndian.Uint32(m[4:8])))] = true
			}
		}
		return nil
	})
	return found, err
}

// isolatedPort reads a bridge's message about its port.
func isolatedPort(message []byte) bool {
	about, _ := attribute(message, unix.SizeofIfInfomsg, unix.IFLA_PROTINFO)
	value, _ := attribute(about, 0, brportIsolated)
	return len(value) == 1 && value[0] == 1
}
