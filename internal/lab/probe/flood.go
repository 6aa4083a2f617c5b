package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Flood is very many first packets of TCP connections, each in a frame to one hardware address
// whatever it is addressed to. They have source ports of their own, FloodPorts and up, so that
// every one begins a flow and answers are told from other traffic.
type Flood struct {
	Device  string // it leaves here
	To      net.HardwareAddr
	From    []netip.Addr // by family: whose answers come here
	Targets []netip.AddrPort
	Rate    int // frames a second
	Most    int // frames; then it ends
}

// FloodPorts is the first source port, of floodSpan; the kernel chooses others for sockets.
const (
	FloodPorts = 20000
	floodSpan  = 10000
)

// FloodTally is what became of a Flood.
type FloodTally struct {
	Sent    int
	Answers map[netip.AddrPort]int // by who sent them; a reset by a host that refuses counts for its address
	Resets  int                    // of these answers
}

// Run floods until ctx ends or all is sent, and then waits for late answers.
func (f Flood) Run(ctx context.Context, at Place) (FloodTally, error) {
	t := FloodTally{Answers: map[netip.AddrPort]int{}}
	hardware, err := hardwareAddr(at, f.Device)
	if err != nil {
		return t, err
	}
	fd, err := floodSocket(at, f.Device)
	if err != nil {
		return t, err
	}
	defer unix.Close(fd)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for t.Sent < f.Most {
		select {
		case <-ctx.Done():
			t.late(fd)
			return t, nil
		case <-tick.C:
		}
		for due := min(int(time.Since(began).Seconds()*float64(f.Rate)), f.Most); t.Sent < due; t.Sent++ {
			if err := f.send(fd, hardware, t.Sent); err != nil {
				return t, err
			}
		}
		t.hear(fd)
	}
	t.late(fd)
	return t, nil
}

func (f Flood) send(fd int, hardware net.HardwareAddr, n int) error {
	to := f.Targets[n%len(f.Targets)]
	for _, from := range f.From {
		if from.Is4() == to.Addr().Is4() {
			frame := Frame{Device: f.Device, To: f.To, Packet: Packet{Proto: "tcp", Source: netip.AddrPortFrom(from, uint16(FloodPorts+n%floodSpan)), Dest: to}}
			if _, err := unix.Write(fd, frame.Bytes(hardware)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return fmt.Errorf("flood: %w", err)
			}
			return nil
		}
	}
	return fmt.Errorf("flood: no address to send to %s from", to)
}

// floodSocket sends frames by a device, and takes those that come by it.
func floodSocket(at Place, device string) (fd int, err error) {
	err = at.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		kind := bigEndian(unix.ETH_P_ALL)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(kind)); err != nil {
			return err
		}
		const room = 16 << 20
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: kind, Ifindex: dev.Index}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		)
	})
	if err != nil {
		return -1, fmt.Errorf("flood: %w", err)
	}
	return fd, nil
}

// late hears what comes after the last frame.
func (t *FloodTally) late(fd int) {
	for range 10 {
		time.Sleep(30 * time.Millisecond)
		t.hear(fd)
	}
}

// hear counts the answers that have come.
func (t *FloodTally) hear(fd int) {
	frame := make([]byte, 1<<11)
	for {
		n, from, err := unix.Recvfrom(fd, frame, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if link, ok := from.(*unix.SockaddrLinklayer); !ok || link.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		who, reset, ok := floodAnswer(frame[:n])
		if !ok {
			continue
		}
		t.Answers[who]++
		if reset {
			t.Resets++
		}
	}
}

// floodAnswer tells who sent a frame that answers one of a flood.
func floodAnswer(frame []byte) (who netip.AddrPort, reset, ok bool) {
	const ether, four, six, ports = 14, 20, 40, 14
	if len(frame) < ether+four {
		return who, false, false
	}
	packet := frame[ether:]
	var source netip.Addr
	var segment []byte
	switch {
	case packet[0]>>4 == 4 && packet[9] == unix.IPPROTO_TCP:
		head := int(packet[0]&0xf) * 4
		if len(packet) < head+ports {
			return who, false, false
		}
		source, _ = netip.AddrFromSlice(packet[12:16])
		segment = packet[head:]
	case packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_TCP && len(packet) >= six+ports:
		source, _ = netip.AddrFromSlice(packet[8:24])
		segment = packet[six:]
	default:
		return who, false, false
	}
	to := binary.BigEndian.Uint16(segment[2:])
	return netip.AddrPortFrom(source, binary.BigEndian.Uint16(segment)), segment[13]&4 != 0, to >= FloodPorts && to < FloodPorts+floodSpan
}
