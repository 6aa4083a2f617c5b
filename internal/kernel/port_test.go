package kernel_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
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

// An endpoint on a bridge speaks for itself alone: nothing that a sibling or the bridge could
// learn of others from gets past its port.
func TestPortSpeaksForItself(t *testing.T) {
	const solicits, advertises, leads, redirects = 135, 136, 134, 137
	p := holdable(plans(t)["bridge"])
	all := endpoints(p)
	device, own := onBridge(p, all[0])
	_, other := onBridge(p, all[1])
	link, none := netip.MustParseAddr("fe80::1"), netip.IPv6Unspecified()
	// Who listens is not shown the tag: such a frame is known by how it ends.
	tagged := probe.Ether(own.mac[:], unix.ETH_P_8021Q, []byte{0, 5}, probe.Broadcast(own.mac[:], own.four)[12:], []byte("tagged"))
	reserved := probe.Broadcast(other.mac[:], own.four)
	copy(reserved, []byte{0x01, 0x80, 0xc2, 0, 0, 3})
	honest := [][]byte{
		probe.Broadcast(own.mac[:], own.four), probe.ARP(own.mac[:], own.mac[:], own.four), probe.ARP(own.mac[:], own.mac[:], netip.IPv4Unspecified()),
		probe.Discovery(own.mac[:], own.six, solicits, other.six), probe.Discovery(own.mac[:], none, solicits, own.six),
		probe.Discovery(own.mac[:], link, advertises, link), probe.Discovery(own.mac[:], own.six, advertises, own.six), probe.Discovery(own.mac[:], link, advertises, own.six),
	}
	forged := [][]byte{
		probe.Broadcast(other.mac[:], own.four), probe.Broadcast(own.mac[:], other.four), tagged, reserved, probe.Ether(own.mac[:], 0x88cc, make([]byte, 50)),
		probe.ARP(other.mac[:], own.mac[:], own.four), probe.ARP(own.mac[:], other.mac[:], own.four), probe.ARP(own.mac[:], own.mac[:], other.four),
		probe.Discovery(other.mac[:], own.six, solicits, own.six), probe.Discovery(own.mac[:], other.six, solicits, own.six), probe.Discovery(own.mac[:], link, advertises, other.six),
		probe.Discovery(own.mac[:], own.six, advertises, other.six), probe.Discovery(own.mac[:], link, leads, link), probe.Discovery(own.mac[:], link, redirects, other.six),
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
			known := frame[6:]
			if bytes.Equal(frame, tagged) {
				known = frame[16:]
			}
			if bytes.Contains(heard, known) {
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
	if err := probe.SendFrame(s, device, frame); err != nil {
		t.Fatal(err)
	}
}
