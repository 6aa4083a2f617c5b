package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// For a stranger too many the oldest goes of those who come from where the most do.
func TestDoorkeeperClosesTheCrowdsOldest(t *testing.T) {
	d := newDoorkeeper(nil)
	visit := func(from string) *visitor {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		return &visitor{Conn: near, keeper: d, from: originOf(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 7)))}
	}
	lone := visit("192.0.2.7")
	d.greet(lone)
	var crowd []*visitor
	for i := range strangersMost - 1 { // one network of IPv6, many addresses
		v := visit(fmt.Sprintf("2001:db8::%x", i+1))
		crowd = append(crowd, v)
		if out := d.greet(v); out != nil {
			t.Fatalf("stranger %d makes one go", i)
		}
	}
	for i := range 10 {
		if out := d.greet(visit("198.51.100." + strconv.Itoa(i+1))); out != crowd[i] {
			t.Fatalf("newcomer %d: not the oldest of the crowd went", i)
		}
	}
	if err := d.recognize(crowd[0], trust.Identity{}, tls.ConnectionState{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who had to go is taken for a member: %v", err)
	}
	if err := d.recognize(lone, trust.Identity{}, tls.ConnectionState{}); err != nil || len(d.strangers) != strangersMost-1 {
		t.Errorf("got %v, and %d strangers are left", err, len(d.strangers))
	}
}

// Of one key so many connections are taken, and who is no member any more has none for long.
func TestDoorkeeperCountsMembers(t *testing.T) {
	d := newDoorkeeper(nil)
	come := func(n byte) (*visitor, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		v := &visitor{Conn: near, keeper: d}
		d.greet(v)
		return v, d.recognize(v, trust.Identity{Key: trust.PublicKey{n}}, tls.ConnectionState{NegotiatedProtocol: strconv.Itoa(int(n))})
	}
	for range connsOfOne {
		if _, err := come(1); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := come(1); mesh.ReasonOf(err) != TooManyCalls {
		t.Errorf("one too many: %v", err)
	} else {
		v.Close()
	}
	if _, err := come(2); err != nil {
		t.Errorf("another's: %v", err)
	}
	judge := func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol == "1" {
			return noCluster()
		}
		return nil
	}
	d.sweep(judge)
	if len(d.members) != connsOfOne+1 {
		t.Errorf("%d are left after one look", len(d.members))
	}
	d.sweep(judge)
	if len(d.members) != 1 || len(d.strangers) != 0 {
		t.Errorf("%d members and %d strangers are left", len(d.members), len(d.strangers))
	}
}

// However many viewers there are, an operator has room for a connection.
func TestDoorkeeperKeepsRoomForOperators(t *testing.T) {
	d := newDoorkeeper(nil)
	come := func(n int, role trust.Role) error {
		v := &visitor{keeper: d}
		d.greet(v)
		return d.recognize(v, trust.Identity{Key: trust.PublicKey{byte(n), byte(n >> 8)}, Role: role}, tls.ConnectionState{})
	}
	refused := false
	for n := range connsOfAll {
		if err := come(n, trust.RoleViewer); err != nil {
			refused = true
			if n != viewersMost || mesh.ReasonOf(err) != TooManyCalls {
				t.Fatalf("viewer %d: %v", n, err)
			}
			break
		}
	}
	if err := come(connsOfAll, trust.RoleOperator); err != nil || !refused {
		t.Errorf("an operator: %v; a viewer was refused: %v", err, refused)
	}
}
