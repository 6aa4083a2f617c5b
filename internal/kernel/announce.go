package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Announcement tells the neighbours of a device which addresses it has now: those who
// remember another device for one would send to it for minutes. The kernel announces when a
// device comes up (arp_notify), and ours have no address yet by then.
type Announcement struct {
	Link  string
	Addrs []netip.Addr
}

func (a Announcement) String() string {
	texts := make([]string, len(a.Addrs))
	for i, addr := range a.Addrs {
		texts[i] = addr.String()
	}
	return fmt.Sprintf("announce %-10s %s", a.Link, strings.Join(texts, ", "))
}

// diffAddrs compares addresses. Devices that get some are announced after it.
func diffAddrs(want *plan.Sandbox, have []plan.Addr) []Op {
	ops := diffKeyed(want.Name, want.Addrs, have, func(a plan.Addr) plan.Addr { return a })
	for _, l := range want.Links {
		if !l.Announced {
			continue
		}
		var come []netip.Addr
		for _, op := range ops {
			if a, ok := op.Object.(plan.Addr); ok && op.Verb != Delete && a.Link == l.Name {
				come = append(come, a.Prefix.Addr())
			}
		}
		if len(come) > 0 {
			ops = append(ops, Op{Add, want.Name, Announcement{l.Name, come}})
		}
	}
	return ops
}

// addrsOn are the addresses that a device is to have.
func addrsOn(s *plan.Sandbox, link string) (addrs []netip.Addr) {
	for _, a := range s.Addrs {
		if a.Link == link {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	return addrs
}

// announceAfter is when an announcement is made again: the first may be lost where the
// device's other end is not yet forwarded from.
func announceAfter() []time.Duration {
	return []time.Duration{100 * time.Millisecond, 900 * time.Millisecond}
}

// announceLimit is how many devices are announced again at a time; others are announced once.
const announceLimit = 1024

// herald makes announcements again. It is used by Apply's goroutine, and close waits for its own.
type herald struct {
	group   sync.WaitGroup
	room    chan struct{}
	ctx     context.Context // ends with the herald, not with a call
	endings context.CancelFunc
}

func newHerald() *herald {
	h := &herald{room: make(chan struct{}, announceLimit)}
	h.ctx, h.endings = context.WithCancel(context.Background())
	return h
}

func (h *herald) close() {
	h.endings()
	h.group.Wait()
}

// announce tells of the addresses that the device has, once now and then again.
func (h *herald) announce(n *namespace, a Announcement) error {
	link, err := n.device(a.Link)
	if err != nil {
		return err
	}
	mac := link.Attrs().HardwareAddr
	if len(mac) != len(plan.MAC{}) {
		return nil // a workload gave it our mark, and it has no neighbours
	}
	held, err := retryDump(func() ([]netlink.Addr, error) { return n.link.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", a.Link, err)
	}
	var frames [][]byte
	for _, addr := range a.Addrs {
		if slices.ContainsFunc(held, func(h netlink.Addr) bool { return addrOf(h.IP) == addr }) {
			frames = append(frames, announcing(plan.MAC(mac), addr))
		}
	}
	if len(frames) == 0 {
		return nil
	}
	socket := -1
	err = n.do(func() (err error) {
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // hears nothing
		return err
	})
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}
	if err := sendAll(socket, frames, to); err != nil {
		closeFile(socket)
		return fmt.Errorf("send on %s: %w", a.Link, err)
	}
	select {
	case h.room <- struct{}{}:
		h.group.Go(func() {
			defer func() { <-h.room }()
			defer closeFile(socket)
			h.again(socket, frames, to)
		})
	default:
		closeFile(socket)
	}
	return nil
}

func (h *herald) again(socket int, frames [][]byte, to unix.Sockaddr) {
	for _, pause := range announceAfter() {
		select {
		case <-h.ctx.Done():
			return
		case <-time.After(pause):
		}
		if sendAll(socket, frames, to) != nil {
			return // the device is gone, or down
		}
	}
}

func sendAll(socket int, frames [][]byte, to unix.Sockaddr) error {
	var errs []error
	for _, f := range frames {
		errs = append(errs, unix.Sendto(socket, f, unix.MSG_DONTWAIT, to))
	}
	return errors.Join(errs...)
}

// announcing is the frame that tells of one address.
func announcing(mac plan.MAC, addr netip.Addr) []byte {
	if addr.Is4() {
		return gratuitousARP(mac, addr)
	}
	return unsolicitedNA(mac, addr)
}

// gratuitousARP is a request for one's own address (RFC 5227, section 3): hosts that know the
// address take the sender's from it.
func gratuitousARP(mac plan.MAC, addr netip.Addr) []byte {
	f := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:])
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their lengths, request
	return slices.Concat(f, mac[:], addr.AsSlice(), make([]byte, len(mac)), addr.AsSlice())
}

// unsolicitedNA is a neighbour advertisement to all nodes (RFC 4861, section 7.2.6) that
// overrides what they know.
func unsolicitedNA(mac plan.MAC, addr netip.Addr) []byte {
	const (
		advertisement = 136
		override      = 0x20
		linkLayer     = 2 // option: target link-layer address, one unit of 8 bytes
		hopLimit      = 255
	)
	all := netip.MustParseAddr("ff02::1")
	message := slices.Concat([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, addr.AsSlice(), []byte{linkLayer, 1}, mac[:])
	pseudo := slices.Concat(addr.AsSlice(), all.AsSlice())
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(message)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:4], checksum(append(pseudo, message...)))

	f := slices.Concat([]byte{0x33, 0x33, 0, 0, 0, 1}, mac[:])
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(message)))
	f = append(f, unix.IPPROTO_ICMPV6, hopLimit)
	return slices.Concat(f, addr.AsSlice(), all.AsSlice(), message)
}
