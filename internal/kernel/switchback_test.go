package kernel_test

import (
	"net"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/mesh"
)

// A client uses a port of its own again, for a connection that IPVS balances, while conntrack
// knows the former one from when nftables balanced. When the node goes back to nftables, the open
// connection is not taken for the former.
func TestSwitchBackForgets(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	b := newSwitchBed(t)
	b.apply(mesh.BalancerNFT)
	const clients = 8
	for i := range clients {
		c := b.openFrom(soloPort, firstOwnPort+i)
		if err := c.SetLinger(0); err != nil { // the port is free at once
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b.restart()
	b.apply(mesh.BalancerIPVS)
	var open []net.Conn
	for i := range clients {
		open = append(open, b.openFrom(soloPort, firstOwnPort+i))
	}
	time.Sleep(delayedACKs)
	b.restart()
	b.apply(mesh.BalancerNFT)
	if ended := outcomes(open, "x"); ended["answered"] != clients {
		t.Errorf("open connections from ports that were used before: %v", ended)
	}
}

// firstOwnPort is below those that the kernel chooses from.
const firstOwnPort = 20000

// openFrom is a connection from a port of the client's own that was answered once.
func (b *switchBed) openFrom(port uint16, own int) *net.TCPConn {
	b.t.Helper()
	c, err := b.dialBy(&net.Dialer{Timeout: answerWait, LocalAddr: &net.TCPAddr{Port: own}}, port)
	if err == nil {
		err = ask(c, "x")
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}
