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
	"github.com/sluice-mesh/sluice/internal/lab/space"
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
	servers := m.places(t) // before: what is held back is so for half a minute
	m.lose(t)
	for _, n := range m.Nodes {
		m.heldBack(t, n, from, open)
	}
	for _, f := range open {
		if err := servers[f.first.Name].Do(func() error { return sendRaw(probe.TargetPort, f.first.Source) }); err != nil {
			t.Fatal(err)
		}
	}
	m.take(t, to)
	m.goOn(t, "to "+to.Name+" while servers send", open)
}

// heldBack waits until a node knows that the flows to its endpoint are over.
func (m *movesTest) heldBack(t *testing.T, n, from *cluster.Node, open []*movingFlow) {
	t.Helper()
	until(t, n.Name+" knows that flows by "+from.Name+" are over", func() error {
		var text string
		for _, set := range []string{"over4", "over6"} {
			listed, err := m.network(t, n).Run(t.Context(), "nft", "list", "set", "inet", plan.TableName, set)
			if err != nil {
				return err
			}
			text += listed
		}
		for _, f := range open {
			want := fmt.Sprintf("%s . %d ", f.first.Source.Addr(), f.first.Source.Port())
			if f.first.Name == "moving."+n.Name && !strings.Contains(text, want) {
				return fmt.Errorf("%s not in %s", want, text)
			}
		}
		return nil
	})
}

// places are the namespaces of the endpoints.
func (m *movesTest) places(t *testing.T) map[string]*space.Space {
	t.Helper()
	places := map[string]*space.Space{}
	for _, n := range m.Nodes {
		s, err := n.Service(t.Context(), "moving")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range s.GetEndpoints() {
			if e.GetName() != "moving."+n.Name {
				continue
			}
			where, err := n.Sandbox(t.Context(), plan.EndpointSandbox(e.GetId()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { where.Close() })
			places[e.GetName()] = where
		}
	}
	return places
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
