package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// watcher hears what is changed in one namespace. Its sockets are plain ones: a
// library that closes a subscription at the first lost event would make a gap of
// what is only a reason to look at everything.
type watcher struct {
	name    string
	kind    plan.Kind
	id      nsID
	route   int                // socket; -1 where there is none
	nft     int                // socket; -1 where there is none
	links   map[int32]seenLink // by index
	touched []step             // what the nft transaction under way is about
}

// seenLink is what was last heard of a device.
type seenLink struct {
	ours     bool
	facts    string // all that a plan may say of it, but for
	isolated bool   // which bridges tell by themselves
}

const (
	receiveRoom  = 128 << 10 // bytes of one receive: the kernel's messages are shorter
	receiveQueue = 4 << 20   // bytes of events that wait
	receiveBurst = 256       // receives before the other sockets have their turn
)

// kindNamespace is the sandbox itself, which is no subsystem.
const kindNamespace = "namespace"

func routeGroups() []uint {
	return []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	}
}

// setReceiveQueue lets so many bytes wait to be read, or as many as the host allows where the
// process may not go beyond that.
func setReceiveQueue(fd, bytes int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// subscribe opens a socket in the calling thread's namespace.
func subscribe(protocol int, groups ...uint) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	err = setReceiveQueue(fd, receiveQueue)
	// The number of a process's first socket in a namespace is its PID. That one is
	// left to a socket that changes things: by it the kernel names who did.
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: 1<<31 | rand.Uint32N(1<<30)}
	for _, g := range groups {
		address.Groups |= 1 << (g - 1)
	}
	if err == nil {
		err = unix.Bind(fd, address)
	}
	if err != nil {
		closeFile(fd)
		return -1, err
	}
	return fd, nil
}

func (w *watcher) close() {
	closeFile(w.route)
	closeFile(w.nft)
	w.route, w.nft = -1, -1
}

// linkQuestion numbers the dump of devices, which comes among the events.
const linkQuestion = 1

// askLinks asks for all devices: the answers teach which are ours.
func (w *watcher) askLinks() error {
	request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	request.Seq = linkQuestion
	request.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	if err := unix.Sendto(w.route, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask for the links: %w", err)
	}
	return nil
}

// receive gives what waits at a socket to each. lost tells that something that
// should have waited there did not.
func receive(fd int, buffer []byte, each func(syscall.NetlinkMessage)) (lost bool, err error) {
	for range receiveBurst {
		n, from, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case err != nil:
			return true, fmt.Errorf("receive events: %w", err)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // only the kernel is believed
		}
		if n > len(buffer) {
			lost = true
			continue
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:n])
		lost = lost || err != nil
		for _, m := range messages {
			each(m)
		}
	}
	return lost, nil
}

// hearRoute takes in rtnetlink's events.
func (w *watcher) hearRoute(buffer []byte, note func(Drift), underlay func(underlayEvent)) error {
	lost, err := receive(w.route, buffer, func(m syscall.NetlinkMessage) {
		if w.kind == plan.KindHost {
			underlay(underlayOf(m))
		}
		kind := w.about(m)
		own := m.Header.Pid == uint32(os.Getpid()) || m.Header.Seq == linkQuestion && m.Header.Flags&unix.NLM_F_MULTI != 0
		if kind != "" && !own {
			note(Drift{Sandbox: w.name, Kind: string(kind), By: process(m.Header.Pid)})
		}
	})
	if lost {
		underlay(underlayEvent{lost: true, moved: true})
		note(Drift{Sandbox: w.name})
		err = errors.Join(err, w.askLinks())
	}
	return err
}

// underlayEvent is what an event says of how the host is reached.
type underlayEvent struct {
	lost  bool // an address went which clients may have dialled
	moved bool // its address towards other nodes, or its device's MTU, may have changed
}

func underlayOf(m syscall.NetlinkMessage) underlayEvent {
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		value, _ := attribute(m.Data, unix.SizeofIfAddrmsg, unix.IFA_ADDRESS)
		addr, _ := netip.AddrFromSlice(value)
		if addr.Is6() && addr.IsLinkLocalUnicast() { // those come and go with every veth
			return underlayEvent{}
		}
		return underlayEvent{lost: m.Header.Type == unix.RTM_DELADDR, moved: true}
	case unix.RTM_NEWLINK:
		return underlayEvent{moved: true}
	case unix.RTM_NEWROUTE:
		const prefix = 1 // offset in rtmsg
		return underlayEvent{moved: len(m.Data) > prefix && m.Data[prefix] == 0}
	default:
		return underlayEvent{}
	}
}

// about tells what of ours an event is about; "" for nothing. It also learns
// which devices are ours.
func (w *watcher) about(m syscall.NetlinkMessage) step {
	if len(m.Data) < 8 {
		return ""
	}
	index := int32(binary.NativeEndian.Uint32(m.Data[4:8])) // where the message has one
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.aboutLink(m, index)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return w.aboutAddr(m, index)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return w.aboutNeigh(m, index)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return w.aboutRoute(m)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return w.aboutRule(m)
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		return w.aboutSetting(m)
	default:
		return ""
	}
}

// concerns tells whether what is on a device with this index may be ours.
func (w *watcher) concerns(index int32) bool { return w.whole() || w.links[index].ours }

// whole tells whether all of the sandbox is ours.
func (w *watcher) whole() bool { return w.kind == plan.KindNetwork || w.kind == plan.KindIngress }

// aboutLink leaves out what no plan says: that the other end came up, and the like.
func (w *watcher) aboutLink(m syscall.NetlinkMessage, index int32) step {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return ""
	}
	before, known := w.links[index]
	if m.Data[0] != unix.AF_UNSPEC {
		return w.aboutPort(m, index)
	}
	alias, _ := attribute(m.Data, unix.SizeofIfInfomsg, unix.IFLA_IFALIAS)
	name, _ := attribute(m.Data, unix.SizeofIfInfomsg, unix.IFLA_IFNAME)
	now := seenLink{ours: marked(w.kind, text(alias), text(name)), facts: facts(m.Data), isolated: before.isolated}
	if m.Header.Type == unix.RTM_DELLINK {
		delete(w.links, index)
	} else {
		w.links[index] = now
	}
	unchanged := m.Header.Type == unix.RTM_NEWLINK && known && now == before
	if unchanged || !before.ours && !now.ours && !w.whole() {
		return ""
	}
	return stepLinks
}

// aboutPort hears a bridge about its port. It tells that one learns, forwards and so on;
// what a plan may say of it is its isolation.
func (w *watcher) aboutPort(m syscall.NetlinkMessage, index int32) step {
	known, ok := w.links[index]
	isolated := m.Header.Type == unix.RTM_NEWLINK && isolatedPort(m.Data) // what is no port any more is not
	if m.Data[0] != unix.AF_BRIDGE || !ok || known.isolated == isolated {
		return ""
	}
	known.isolated = isolated
	w.links[index] = known
	if !known.ours {
		return ""
	}
	return stepLinks
}

// facts are what a plan may say of a device.
func facts(data []byte) string {
	f := []byte{data[8] & unix.IFF_UP} // ifi_flags
	for _, kind := range []uint16{unix.IFLA_IFNAME, unix.IFLA_MTU, unix.IFLA_ADDRESS, unix.IFLA_LINK, unix.IFLA_MASTER} {
		value, _ := attribute(data, unix.SizeofIfInfomsg, kind)
		f = append(append(f, byte(kind)), value...)
	}
	info, _ := attribute(data, unix.SizeofIfInfomsg, unix.IFLA_LINKINFO)
	kind, _ := attribute(info, 0, unix.IFLA_INFO_KIND)
	about, _ := attribute(info, 0, unix.IFLA_INFO_DATA)
	f = append(f, kind...)
	if text(kind) != string(plan.LinkBridge) {
		return string(append(f, about...))
	}
	snooping, _ := attribute(about, 0, nl.IFLA_BR_MCAST_SNOOPING) // the others are timers, which run
	return string(append(f, snooping...))
}

// aboutAddr leaves out the link-local addresses that the kernel gives, as
// observeAddrs does: they come seconds after their device.
func (w *watcher) aboutAddr(m syscall.NetlinkMessage, index int32) step {
	value, _ := attribute(m.Data, unix.SizeofIfAddrmsg, unix.IFA_ADDRESS)
	addr, _ := netip.AddrFromSlice(value)
	given := addr.Is6() && addr.IsLinkLocalUnicast() && addr != plan.Gateway6()
	if given || !w.concerns(index) {
		return ""
	}
	return stepAddr
}

// aboutNeigh leaves out what the kernel learns by itself; it does so all the
// time. Forwarding entries of our tunnels are never learnt.
func (w *watcher) aboutNeigh(m syscall.NetlinkMessage, index int32) step {
	switch {
	case !w.concerns(index):
		return ""
	case m.Data[0] == unix.AF_BRIDGE:
		if _, learnt := attribute(m.Data, sizeofNdmsg, unix.NDA_MASTER); learnt {
			return "" // by a bridge, as it does all the time
		}
		return stepFDB
	case m.Header.Pid != 0:
		return stepNeigh
	default:
		return ""
	}
}

// aboutRoute knows our routes by their protocol. One of somebody else's that was
// put in the place of ours says so; on the host, where routing daemons replace
// routes by the thousand, that is left to the periodic look.
func (w *watcher) aboutRoute(m syscall.NetlinkMessage) step {
	const protocol = 5 // offset in rtmsg
	replaced := m.Header.Flags&unix.NLM_F_REPLACE != 0 && w.kind != plan.KindHost
	if m.Data[protocol] == plan.RouteProtocol || replaced {
		return stepRoute
	}
	return ""
}

// aboutRule knows our rules by their protocol, in endpoints.
func (w *watcher) aboutRule(m syscall.NetlinkMessage) step {
	by, _ := attribute(m.Data, unix.SizeofRtMsg, nl.FRA_PROTOCOL)
	if w.kind == plan.KindEndpoint && len(by) == 1 && by[0] == plan.RouteProtocol {
		return stepRule
	}
	return ""
}

// netconfLength is the length of netconfmsg, aligned.
const netconfLength = 4

// aboutSetting hears of forwarding, rp_filter and a few more, of a device or of
// all (a negative index).
func (w *watcher) aboutSetting(m syscall.NetlinkMessage) step {
	value, ok := attribute(m.Data, netconfLength, 1) // NETCONFA_IFINDEX
	if !ok || len(value) != 4 {
		return ""
	}
	if index := int32(binary.NativeEndian.Uint32(value)); index < 0 || w.concerns(index) {
		return stepSysctl
	}
	return ""
}

// attribute finds an attribute by its type behind a message's own header of
// length bytes.
func attribute(data []byte, length int, kind uint16) ([]byte, bool) {
	const (
		header   = unix.SizeofRtAttr
		typeMask = 0x3fff // without the flags for nested, and for byte order
	)
	for rest := data[min(length, len(data)):]; len(rest) >= header; {
		n := int(binary.NativeEndian.Uint16(rest[0:2]))
		if n < header || n > len(rest) {
			return nil, false
		}
		if binary.NativeEndian.Uint16(rest[2:4])&typeMask == kind {
			return rest[header:n], true
		}
		rest = rest[min((n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1), len(rest)):]
	}
	return nil, false
}

// text reads a string that the kernel ends with a zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// process names whose socket number it is, if it is a process's number and the
// process is still there to tell its name. Numbers that the kernel made up, for
// a second socket, are negative.
func process(socket uint32) string {
	if pid := int32(socket); pid <= 0 {
		return ""
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", socket)) // most tools have ended by now
	return named(strings.TrimSpace(string(name)), socket)
}

func named(name string, pid uint32) string {
	if name == "" {
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", name, pid)
}

// absent tells whether an error of openFile says that no namespace is there.
func absent(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, errNotNamespace) }
