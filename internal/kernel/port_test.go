package kernel_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// speaker is who a frame says that it is from.
type speaker struct {
	mac  plan.MAC
	four netip.Addr
	six  netip.Addr
}

// onBridge are the device and the addresses of an endpoint on a bridge alone.
func onBridge(p *plan.Plan, sandbox string) (device string, s speaker) {
	for _, e := range p.Sandboxes {
		if e.Name == sandbox {
			device, s.mac = e.Links[0].Name, e.Links[0].MAC
			for _, a := range e.Addrs {
				if a.Prefix.Addr().Is4() {
					s.four = a.Prefix.Addr()
				} else {
					s.six = a.Prefix.Addr()
				}
			}
		}
	}
	return device, s
}

// ether is a frame to all.
func ether(from plan.MAC, kind uint16, body ...[]byte) []byte {
	head := append(bytes.Repeat([]byte{0xff}, 6), from[:]...)
	return append(append(head, byte(kind>>8), byte(kind)), bytes.Join(body, nil)...)
}

func arpOf(frame, said plan.MAC, addr netip.Addr) []byte {
	return ether(frame, unix.ETH_P_ARP, []byte{0, 1, 8, 0, 6, 4, 0, 2}, said[:], addr.AsSlice(), make([]byte, 10))
}

func fourOf(mac plan.MAC, addr netip.Addr) []byte {
	head := slices.Concat([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}, addr.AsSlice(), []byte{255, 255, 255, 255})
	sum := 0
	for i := 0; i < len(head); i += 2 {
		sum += int(head[i])<<8 + int(head[i+1])
	}
	binary.BigEndian.PutUint16(head[10:], ^uint16(sum>>16+sum&0xffff))
	return ether(mac, unix.ETH_P_IP, head, make([]byte, 8))
}

// sixOf is an ICMPv6 message of discovery.
func sixOf(mac plan.MAC, from netip.Addr, kind byte, target netip.Addr) []byte {
	all := netip.MustParseAddr("ff02::1")
	return ether(mac, unix.ETH_P_IPV6, []byte{0x60, 0, 0, 0, 0, 24, 58, 255}, from.AsSlice(), all.AsSlice(), []byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice())
}

// An endpoint on a bridge speaks for itself alone: nothing that a sibling or the bridge could
// learn of others from gets past its port.
func TestPortSpeaksForItself(t *testing.T) {
	const solicits, advertises, leads, redirects = 135, 136, 134, 137
	p := holdable(plans(t)["bridge"])
	all := endpoints(p)
	device, own := onBridge(p, all[0])
	_, other := onBridge(p, all[1])
	link, none := netip.MustParseAddr("fe80::1"), netip.IPv6Unspecified()
	tagged := ether(own.mac, unix.ETH_P_8021Q, []byte{0, 5}, fourOf(own.mac, own.four)[12:])
	reserved := fourOf(other.mac, own.four)
	copy(reserved, []byte{0x01, 0x80, 0xc2, 0, 0, 3})
	honest := [][]byte{
		fourOf(own.mac, own.four), arpOf(own.mac, own.mac, own.four), arpOf(own.mac, own.mac, netip.IPv4Unspecified()),
		sixOf(own.mac, own.six, solicits, other.six), sixOf(own.mac, none, solicits, own.six),
		sixOf(own.mac, link, advertises, link), sixOf(own.mac, own.six, advertises, own.six), sixOf(own.mac, link, advertises, own.six),
	}
	forged := [][]byte{
		fourOf(other.mac, own.four), fourOf(own.mac, other.four), tagged, reserved, ether(own.mac, 0x88cc, make([]byte, 50)),
		arpOf(other.mac, own.mac, own.four), arpOf(own.mac, other.mac, own.four), arpOf(own.mac, own.mac, other.four),
		sixOf(other.mac, own.six, solicits, own.six), sixOf(own.mac, other.six, solicits, own.six), sixOf(own.mac, link, advertises, other.six),
		sixOf(own.mac, own.six, advertises, other.six), sixOf(own.mac, link, leads, link), sixOf(own.mac, link, redirects, other.six),
	}
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		pinWorkloads(t, k, p)
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		mustApply(t, k, p)
		hear := listening(t, k.Path(all[1]))
		for _, frame := range slices.Concat(forged, honest) {
			sendFrame(t, k.Path(all[0]), device, frame)
		}
		var heard []byte
		last := honest[len(honest)-1]
		for end := time.Now().Add(5 * time.Second); !bytes.Contains(heard, last) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			heard = append(heard, bytes.Join(hear(), nil)...)
		}
		for _, frame := range forged {
			if bytes.Contains(heard, frame[6:]) {
				t.Errorf("let through: %x", frame)
			}
		}
		for _, frame := range honest {
			if !bytes.Contains(heard, frame) {
				t.Errorf("dropped: %x", frame)
			}
		}
		learned, err := in(t, k, p.Sandboxes[0].Name, "bridge", "fdb", "show", "br", plan.Bridge)
		if err != nil {
			t.Fatal(learned, err)
		}
		port := bridgePort(p, all[0])
		for line := range strings.Lines(learned) {
			if strings.Contains(line, other.mac.String()) && strings.Contains(line, port) {
				t.Errorf("the bridge looks for a sibling behind another's port: %s", line)
			}
		}
	})
}

// bridgePort is the bridge's end of an endpoint's first interface.
func bridgePort(p *plan.Plan, sandbox string) string {
	for _, l := range p.Sandboxes[0].Links {
		if l.Peer.Sandbox == sandbox {
			return l.Name
		}
	}
	return ""
}

func sendFrame(t *testing.T, namespace, device string, frame []byte) {
	t.Helper()
	s, err := space.Open(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index})
	}); err != nil {
		t.Fatal(err)
	}
}
