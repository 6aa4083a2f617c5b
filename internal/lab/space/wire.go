package space

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge makes a bridge in the namespace, up and with these addresses.
func (s *Space) Bridge(name string, addrs ...netip.Prefix) error {
	h, err := s.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add bridge %s: %w", name, err)
	}
	return configure(h, name, addrs)
}

// Plug makes a veth from the bridge of this namespace to a device named inside
// in another one, up and with these addresses.
func (s *Space) Plug(bridge, port string, to *Space, inside string, addrs ...netip.Prefix) error {
	h, err := s.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	master, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = port, master.Attrs().Index
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: to.FD()}); err != nil {
		return fmt.Errorf("add veth %s: %w", port, err)
	}
	if err := configure(h, port, nil); err != nil {
		return err
	}
	there, err := to.Links()
	if err != nil {
		return err
	}
	defer there.Close()
	return errors.Join(configure(there, inside, addrs), carried(h, port), carried(there, inside))
}

// carried waits until a device has noticed that its other end is up: the kernel does that by
// the way, and what is sent before is dropped.
func carried(h *netlink.Handle, name string) error {
	const most = 5 * time.Second
	for deadline := time.Now().Add(most); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
	}
	return fmt.Errorf("%s is not up after %s", name, most)
}

// Address adds addresses to a device, with no duplicate address detection: a
// test does not wait for it.
func (s *Space) Address(device string, addrs ...netip.Prefix) error {
	h, err := s.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	return configure(h, device, addrs)
}

// Route adds a route by a next hop.
func (s *Space) Route(dst netip.Prefix, via netip.Addr) error {
	h, err := s.Links()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.RouteAdd(&netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("add route %s via %s: %w", dst, via, err)
	}
	return nil
}

func configure(h *netlink.Handle, name string, addrs []netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	for _, a := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, name, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// ipNet is p as the netlink library wants it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
