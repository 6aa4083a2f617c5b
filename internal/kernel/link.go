package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// diffLinks compares devices. Where the plan leaves the MAC to the kernel, any will do.
// That a device is to be announced is no part of it; but one that gets another MAC while it
// keeps its addresses is announced after it.
func diffLinks(want *plan.Sandbox, have []plan.Link) []Op {
	planned := make(map[string]plan.Link, len(want.Links))
	for _, w := range want.Links {
		planned[w.Name] = w
	}
	seen := make([]plan.Link, len(have))
	var told []Op
	for i, h := range have {
		w := planned[h.Name]
		if w.Announced && w.MAC != (plan.MAC{}) && h.MAC != w.MAC {
			told = append(told, Op{Add, want.Name, Announcement{h.Name, addrsOn(want, h.Name)}})
		}
		if w.MAC == (plan.MAC{}) {
			h.MAC = plan.MAC{}
		}
		h.Announced = w.Announced
		seen[i] = h
	}
	return append(diffKeyed(want.Name, want.Links, seen, func(l plan.Link) string { return l.Name }), told...)
}

// list returns the devices of the namespace, again where a dump was interrupted.
func (n *namespace) list() ([]netlink.Link, error) {
	links, err := retryDump(n.link.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links of %s: %w", n.name, err)
	}
	return links, nil
}

// retryDump repeats a dump that something changed under. Half a dump is never used.
func retryDump[T any](dump func() (T, error)) (found T, err error) {
	for range 8 {
		if found, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
	return found, err
}

// ours tells whether a device may be changed and deleted by us: what carries the
// alias, and in sandboxes that are wholly ours whatever is of a kind that we make.
func (n *namespace) ours(l netlink.Link) bool {
	if n.kind == plan.KindNetwork || n.kind == plan.KindIngress {
		kind := plan.LinkKind(l.Type())
		return kind == plan.LinkVeth || kind == plan.LinkVXLAN || kind == plan.LinkBridge
	}
	return marked(n.kind, l.Attrs().Alias, l.Attrs().Name)
}

// marked tells whether a device carries the mark of those that we make in a sandbox of
// this kind. An endpoint may be the host of an agent of its own: its devices are not
// ours, and ours are none of its.
func marked(kind plan.Kind, alias, name string) bool {
	if kind != plan.KindEndpoint {
		return alias == plan.LinkAlias
	}
	// Earlier versions gave those in endpoints the host's alias, and fixed names.
	return alias == plan.EndpointAlias || alias == plan.LinkAlias && plan.InEndpoint(name)
}

// others tells whether what is on a device may be another agent's: of one that the endpoint is
// the host of, or of one that this host is an endpoint of.
func (n *namespace) others(l netlink.Link) bool {
	switch n.kind {
	case plan.KindEndpoint:
		return !n.ours(l)
	case plan.KindHost:
		return l.Attrs().Alias == plan.EndpointAlias
	default:
		return false
	}
}

// alias is what the devices that we make in the namespace carry.
func (n *namespace) alias() string {
	if n.kind == plan.KindEndpoint {
		return plan.EndpointAlias
	}
	return plan.LinkAlias
}

// observeLinks returns our devices. A device that is not ours and has a name of
// the plan's is left out here and refused when it is in the way (doLink).
func (k *Kernel) observeLinks(n *namespace, want *plan.Sandbox) ([]plan.Link, error) {
	links, err := n.list()
	if err != nil {
		return nil, err
	}
	wanted := map[string]plan.Link{}
	for _, w := range want.Links {
		wanted[w.Name] = w
	}
	ports, err := n.ports(links)
	if err != nil {
		return nil, err
	}
	var found []plan.Link
	for _, l := range links {
		if !n.ours(l) {
			continue
		}
		seen := linkOf(l)
		port := ports[l.Attrs().Index]
		seen.Master, seen.Isolated = port.master, port.isolated
		if w := wanted[seen.Name]; w.Kind == plan.LinkVeth && k.paired(l, w.Peer) {
			seen.Peer = w.Peer
		}
		found = append(found, seen)
	}
	return found, nil
}

// linkOf translates a device. One that is down has MTU 0, which no plan wants.
func linkOf(l netlink.Link) plan.Link {
	attrs := l.Attrs()
	seen := plan.Link{Name: attrs.Name, Kind: plan.LinkKind(l.Type()), MTU: attrs.MTU}
	copy(seen.MAC[:], attrs.HardwareAddr)
	if attrs.Flags&net.FlagUp == 0 {
		seen.MTU = 0
	}
	if vx, ok := l.(*netlink.Vxlan); ok {
		seen.VXLAN = plan.VXLAN{VNI: uint32(vx.VxlanId), Local: addrOf(vx.SrcAddr), Port: uint16(vx.Port)}
		if vx.Learning {
			seen.VXLAN.VNI = 0 // learning makes a moved address a black hole: not the device we want
		}
	}
	if bridge, ok := l.(*netlink.Bridge); ok && !plain(bridge) {
		seen.MTU = 0
	}
	return seen
}

// paired tells whether a veth's other end is the one that the plan names. Each
// end knows the other's index only.
func (k *Kernel) paired(l netlink.Link, peer plan.Peer) bool {
	far, err := k.namespace(peer.Sandbox)
	if err != nil {
		return false
	}
	end, err := far.link.LinkByName(peer.Link)
	return err == nil && end.Attrs().ParentIndex == l.Attrs().Index && l.Attrs().ParentIndex == end.Attrs().Index
}

// doLink makes a device what the plan says. Another kind, peer or tunnel needs a
// new device; the rest is set in place.
func (k *Kernel) doLink(n *namespace, verb Verb, want plan.Link) error {
	have, err := n.link.LinkByName(want.Name)
	var absent netlink.LinkNotFoundError
	if err != nil && !errors.As(err, &absent) {
		return fmt.Errorf("find link: %w", err)
	}
	if err == nil && !n.ours(have) && !k.ourPeer(have, want) {
		return n.inTheWay(want.Name)
	}
	if verb == Delete {
		if err != nil {
			return nil
		}
		return n.link.LinkDel(have)
	}
	if want.Kind == plan.LinkVeth {
		// Asked before anything is taken away: without its namespace there is no new pair.
		if _, err := k.namespace(want.Peer.Sandbox); err != nil {
			return fmt.Errorf("other end: %w", err)
		}
	}
	if err == nil && !k.same(have, want) {
		if err := n.link.LinkDel(have); err != nil {
			return fmt.Errorf("remove the old device: %w", err)
		}
		k.stages.reach("old device removed")
		err = absent
	}
	if err != nil {
		if err := k.makeLink(n, want); err != nil {
			return err
		}
		k.stages.reach("device made")
		if have, err = n.link.LinkByName(want.Name); err != nil {
			return fmt.Errorf("find the new link: %w", err)
		}
	}
	return n.setLink(have, want)
}

func (n *namespace) inTheWay(device string) error {
	return &Refusal{plan.KernelRefused, fmt.Sprintf("a device named %s that is not ours is in %s", device, n.name), "remove or rename it"}
}

// ourPeer tells whether a device without our alias is the far end of a pair that
// was just made from the other side: it has no alias yet.
func (k *Kernel) ourPeer(l netlink.Link, want plan.Link) bool {
	return want.Kind == plan.LinkVeth && l.Type() == string(plan.LinkVeth) && k.paired(l, want.Peer)
}

func (k *Kernel) same(have netlink.Link, want plan.Link) bool {
	seen := linkOf(have)
	if seen.Kind != want.Kind || seen.VXLAN != want.VXLAN {
		return false
	}
	return want.Kind != plan.LinkVeth || k.paired(have, want.Peer)
}

func (k *Kernel) makeLink(n *namespace, want plan.Link) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = want.Name, want.MTU, hardware(want.MAC)
	switch want.Kind {
	case plan.LinkVXLAN:
		// Made in the host with the sandbox as its home: the outer packets are the host's.
		attrs.Namespace = netlink.NsFd(n.fd)
		err := k.host.link.LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: int(want.VXLAN.VNI), SrcAddr: want.VXLAN.Local.AsSlice(), Port: int(want.VXLAN.Port),
		})
		if err != nil {
			return fmt.Errorf("make vxlan device: %w", err)
		}
		return nil
	case plan.LinkBridge:
		return n.makeBridge(attrs, want)
	default:
		return k.makePair(n, attrs, want)
	}
}

// makePair makes both ends of a veth. What has the other end's name is asked for first: one
// of ours there is an end of an earlier pair, which goes; with somebody else's there is
// nothing to be made.
func (k *Kernel) makePair(n *namespace, attrs netlink.LinkAttrs, want plan.Link) error {
	far, err := k.namespace(want.Peer.Sandbox)
	if err != nil {
		return fmt.Errorf("other end: %w", err)
	}
	if earlier, err := far.link.LinkByName(want.Peer.Link); err == nil {
		if !far.ours(earlier) {
			return far.inTheWay(want.Peer.Link)
		}
		if err := far.link.LinkDel(earlier); err != nil {
			return fmt.Errorf("remove the earlier other end: %w", err)
		}
		k.stages.reach("earlier pair removed")
	}
	err = n.link.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: want.Peer.Link, PeerNamespace: netlink.NsFd(far.fd),
		PeerMTU: uint32(want.MTU), PeerHardwareAddr: hardware(want.Peer.MAC),
	})
	if err != nil {
		return fmt.Errorf("make veth pair with %s in %s: %w", want.Peer.Link, want.Peer.Sandbox, err)
	}
	return nil
}

func hardware(m plan.MAC) net.HardwareAddr {
	if m == (plan.MAC{}) {
		return nil
	}
	return m[:]
}

// setLink brings what can be changed in place to what the plan says. The alias
// comes first: a device without it would be nobody's.
func (n *namespace) setLink(have netlink.Link, want plan.Link) error {
	attrs := have.Attrs()
	if !marked(n.kind, attrs.Alias, attrs.Name) {
		if err := n.link.LinkSetAlias(have, n.alias()); err != nil {
			return fmt.Errorf("set alias: %w", err)
		}
		n.stages.reach("alias set")
	}
	if attrs.MTU != want.MTU {
		if err := n.link.LinkSetMTU(have, want.MTU); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
		n.stages.reach("MTU set")
	}
	if mac := hardware(want.MAC); mac != nil && attrs.HardwareAddr.String() != mac.String() {
		if err := n.link.LinkSetHardwareAddr(have, mac); err != nil {
			return fmt.Errorf("set MAC address: %w", err)
		}
		n.stages.reach("MAC address set")
	}
	if err := n.setPort(have, want); err != nil {
		return err
	}
	if attrs.Flags&net.FlagUp == 0 {
		if err := n.beforeUp(want.Name); err != nil {
			return err
		}
		if err := n.link.LinkSetUp(have); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
		n.stages.reach("set up")
	}
	return nil
}

// beforeUp gives a device the settings that count from the moment it is up. It learns no routes
// from whoever advertises himself at its other end: the machine's default may be to listen, and a
// route that was learnt stays. On the host its link-local address is usable at once: as long as
// the kernel tries it for duplicates, a second, it asks for no neighbour whom it forwards to.
func (n *namespace) beforeUp(link string) error {
	settings := []plan.Sysctl{{Key: "net/ipv6/conf/" + link + "/accept_ra", Value: "0"}}
	if n.kind == plan.KindHost {
		settings = append(settings, plan.Sysctl{Key: "net/ipv6/conf/" + link + "/accept_dad", Value: "0"})
	}
	return n.do(func() error {
		for _, s := range settings {
			err := writeSysctl(s)
			if _, noIPv6 := errors.AsType[*Refusal](err); noIPv6 { // no device has, or one of an MTU below 1280
				return nil
			}
			if err != nil {
				return fmt.Errorf("set before the device is up: %w", err)
			}
		}
		return nil
	})
}

// removeLinks deletes all our devices of a sandbox.
func (n *namespace) removeLinks() error {
	links, err := n.list()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if n.ours(l) {
			errs = append(errs, n.link.LinkDel(l))
			n.stages.reach("a device removed")
		}
	}
	return errors.Join(errs...)
}

// indices maps our devices' index to their name.
func (n *namespace) indices() (map[int]string, error) {
	links, err := n.list()
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		if n.ours(l) {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	return names, nil
}

// device finds one of our devices. Another's with that name is refused: whatever is put on it
// would be found again by nobody, and the workload in a namespace may make any.
func (n *namespace) device(name string) (netlink.Link, error) {
	l, err := n.link.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	if !n.ours(l) {
		return nil, n.inTheWay(name)
	}
	return l, nil
}

// index is that of one of our devices.
func (n *namespace) index(link string) (int, error) {
	l, err := n.device(link)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}
