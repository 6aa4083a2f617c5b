package scenarios

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// floodBatch is how many datagrams are under way: as many as a socket's buffer holds with ease.
const floodBatch = 32

// Flood sends n datagrams to a node, each from another client's address, and counts who
// answers: n new flows by one socket, which is what makes ten thousand of them cheap.
func (f *Real) Flood(n int, node string, port uint16) (map[string]int, error) {
	counts := map[string]int{}
	to := netip.AddrPortFrom(address(node, false), port)
	err := f.spaces[manyName].Do(func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(f.nextPort())})
		if err != nil {
			return err
		}
		defer conn.Close()
		for sent := 0; sent < n; {
			batch := min(floodBatch, n-sent)
			for i := range batch {
				from := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: manyAddr(sent+i, How{}).As4()})
				if _, _, err := conn.WriteMsgUDPAddrPort([]byte("x"), from, to); err != nil {
					return fmt.Errorf("send datagram %d: %w", sent+i, err)
				}
			}
			if err := hear(conn, batch, counts); err != nil {
				return fmt.Errorf("after %d datagrams: %w", sent, err)
			}
			sent += batch
		}
		return nil
	})
	return counts, err
}

// hear counts so many answers by the name that they begin with.
func hear(conn *net.UDPConn, n int, counts map[string]int) error {
	buf := make([]byte, 256)
	for range n {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		length, _, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		name, _, ok := strings.Cut(string(buf[:length]), " ")
		if !ok {
			return errors.New("an answer that is none")
		}
		counts[name]++
	}
	return nil
}
