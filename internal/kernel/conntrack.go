package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// tracked is one of conntrack's flows. The library knows no zone of one direction, so
// the messages are read here.
type tracked struct {
	proto       uint8
	from, to    netip.AddrPort // as its first packet came in
	source, dst netip.AddrPort // of its replies; dst is the sender as the receiver sees it
	zone        uint16         // of the original direction; 0: none
	family      uint8
	raw         []byte // names it to the kernel
}

// displaced tells whether conntrack gave the flow another source port than its sender has.
func (t *tracked) displaced() bool { return t.dst.Port() != t.from.Port() }

// translated tells whether the flow's destination is not what its sender dialled.
func (t *tracked) translated() bool { return t.source != t.to }

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const (
	ctTupleOrig  = 1
	ctTupleReply = 2
	ctZone       = 18

	ctTupleIP    = 1
	ctTupleProto = 2
	ctTupleZone  = 3

	ctProtoNum = 1
	ctProtoSrc = 2
	ctProtoDst = 3
)

const sizeofNfgenmsg = 4

// flowsOf lists the TCP, UDP and SCTP flows of both families in a namespace.
func flowsOf(where netns.NsHandle) ([]tracked, error) {
	var found []tracked
	err := within(where, func() error {
		messages, err := retryDump(func() ([][]byte, error) {
			return conntrackRequest(unix.AF_UNSPEC, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, nil).Execute(unix.NETLINK_NETFILTER, 0)
		})
		for _, m := range messages {
			if t, ok := parseTracked(m); ok {
				found = append(found, t)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list flows: %w", err)
	}
	return found, nil
}

// forgetFlows deletes flows. One that has ended by itself is no error.
func forgetFlows(where netns.NsHandle, flows []tracked) error {
	if len(flows) == 0 {
		return nil
	}
	socket, err := nl.GetNetlinkSocketAt(where, netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer socket.Close()
	failed := 0
	for i := range flows {
		request := conntrackRequest(flows[i].family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, flows[i].raw)
		request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
		if _, fault := request.Execute(unix.NETLINK_NETFILTER, 0); fault != nil && !errors.Is(fault, fs.ErrNotExist) {
			failed++
			err = cmp.Or(err, fault)
		}
	}
	if err != nil {
		return fmt.Errorf("delete flows, %d of %d failed: %w", failed, len(flows), err)
	}
	return nil
}

func conntrackRequest(family uint8, operation, flags int, attributes []byte) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	if len(attributes) > 0 {
		request.AddRawData(attributes)
	}
	return request
}

// parseTracked reads a flow that has ports.
func parseTracked(message []byte) (t tracked, ok bool) {
	orig, okOrig := attribute(message, sizeofNfgenmsg, ctTupleOrig)
	reply, okReply := attribute(message, sizeofNfgenmsg, ctTupleReply)
	if !okOrig || !okReply {
		return t, false
	}
	t = tracked{family: message[0], raw: message[sizeofNfgenmsg:]}
	if t.proto, t.from, t.to, ok = parseTuple(orig); !ok {
		return t, false
	}
	if _, t.source, t.dst, ok = parseTuple(reply); !ok {
		return t, false
	}
	zone, has := attribute(orig, 0, ctTupleZone)
	if !has {
		zone, has = attribute(message, sizeofNfgenmsg, ctZone)
	}
	if has && len(zone) == 2 {
		t.zone = binary.BigEndian.Uint16(zone)
	}
	return t, true
}

func parseTuple(b []byte) (proto uint8, from, to netip.AddrPort, ok bool) {
	ip, _ := attribute(b, 0, ctTupleIP)
	l4, _ := attribute(b, 0, ctTupleProto)
	number, ok := attribute(l4, 0, ctProtoNum)
	if !ok || len(number) != 1 {
		return 0, from, to, false
	}
	var ends [2]netip.AddrPort
	for i, field := range []uint16{ctProtoSrc, ctProtoDst} {
		port, okPort := attribute(l4, 0, field)
		addr, okAddr := attribute(ip, 0, uint16(i+1)) // CTA_IP_V4_SRC, _DST
		if !okAddr {
			addr, okAddr = attribute(ip, 0, uint16(i+3)) // CTA_IP_V6_SRC, _DST
		}
		a, okIP := netip.AddrFromSlice(addr)
		if !okPort || !okAddr || !okIP || len(port) != 2 {
			return 0, from, to, false
		}
		ends[i] = netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
	}
	return number[0], ends[0], ends[1], true
}
