package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// serverGoesOn is a server that sends datagrams of its own while the address it was dialled
// at is nowhere: what it sends must not become a flow of its own, in the client's way.
func (m *movesTest) serverGoesOn(t *testing.T, from, to *cluster.Node) {
	t.Helper()
	var open []*movingFlow
	for _, f := range m.open(t, "moving.n1", "moving.n2", "moving.n3") {
		if !f.tcp {
			open = append(open, f)
		}
	}
	m.lose(t)
	for _, f := range open {
		set := "over4"
		if f.first.Source.Addr().Is6() {
			set = "over6"
		}
		node := m.Node(strings.TrimPrefix(f.first.Name, "moving."))
		until(t, node.Name+" knows that a flow by "+from.Name+" is over", func() error {
			text, err := m.network(t, node).Run(t.Context(), "nft", "list", "set", "inet", plan.TableName, set)
			if want := fmt.Sprintf("%s . %d ", f.first.Source.Addr(), f.first.Source.Port()); err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("%s not in %s", want, text)
			}
			return err
		})
		m.insist(t, node, f.first)
	}
	m.take(t, to)
	m.goOn(t, "to "+to.Name+" while servers send", open)
}

// insist sends a datagram from the published port of an endpoint to the client of a flow.
func (m *movesTest) insist(t *testing.T, n *cluster.Node, to probe.Answer) {
	t.Helper()
	s, err := n.Service(t.Context(), "moving")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range s.GetEndpoints() {
		if e.GetName() != to.Name {
			continue
		}
		where, err := n.Sandbox(t.Context(), plan.EndpointSandbox(e.GetId()))
		if err != nil {
			t.Fatal(err)
		}
		defer where.Close()
		if err := where.Do(func() error { return sendRaw(probe.TargetPort, to.Source) }); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s is not known", to.Name)
}

// sendRaw sends a datagram from a port that somebody else has.
func sendRaw(from uint16, to netip.AddrPort) error {
	datagram := binary.BigEndian.AppendUint16(nil, from)
	datagram = binary.BigEndian.AppendUint16(datagram, to.Port())
	datagram = append(datagram, 0, 12, 0, 0, 'm', 'o', 'r', 'e') // length, no checksum
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{})
	if to.Addr().Is4() {
		address.(*unix.SockaddrInet4).Addr = to.Addr().As4()
	} else {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const checksumAt = 6
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksumAt); err != nil {
			return err
		}
	}
	return unix.Sendto(fd, datagram, 0, address)
}
