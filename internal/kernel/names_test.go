package kernel_test

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

var nameServer = netip.MustParseAddrPort("127.0.0.11:53")

// echoNames answers what comes with itself, once by each transport.
func echoNames(t *testing.T, packets net.PacketConn, listener net.Listener) {
	t.Helper()
	buf := make([]byte, 16)
	go func() {
		if n, from, err := packets.ReadFrom(buf); err == nil {
			packets.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			conn.Write([]byte("tcp"))
		}
	}()
}

func heardNames(s *space.Space, network string) (string, error) {
	var got string
	err := s.Do(func() error {
		conn, err := net.DialTimeout(network, nameServer.String(), time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if network == "udp4" {
			conn.Write([]byte("udp"))
		}
		buf := make([]byte, 16)
		n, err := conn.Read(buf)
		got = string(buf[:n])
		return err
	})
	return got, err
}

func TestListenNames(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		mine, err := space.New(filepath.Join(t.TempDir(), "names"))
		if err != nil {
			t.Fatal(err)
		}
		defer mine.Close()
		if err := k.Pin("ep-names", mine.Path); err != nil {
			t.Fatal(err)
		}
		defer mustApply(t, k, &plan.Plan{})
		packets, listener, err := k.ListenNames("ep-names", nameServer)
		if err != nil {
			t.Fatal(err)
		}
		echoNames(t, packets, listener)
		for network, want := range map[string]string{"udp4": "udp", "tcp4": "tcp"} {
			if got, err := heardNames(mine, network); got != want {
				t.Errorf("%s: %q, %v", network, got, err)
			}
		}
		if conn, err := net.DialTimeout("tcp4", nameServer.String(), time.Second); err == nil {
			conn.Close()
			t.Error("the sockets are in the host's namespace too")
		}
		_, _, err = k.ListenNames("ep-names", nameServer)
		wantRefusal(t, err, kernel.NameServerTaken)
		packets.Close()
		listener.Close()
		if packets, listener, err = k.ListenNames("ep-names", nameServer); err != nil {
			t.Fatalf("at once after the last ones, whose connections still end: %v", err)
		}
		packets.Close()
		listener.Close()
	})
}

// Both sockets or none: a half that stays would be in the way of the next try.
func TestListenNamesIsWhole(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		mine, err := space.New(filepath.Join(t.TempDir(), "names"))
		if err != nil {
			t.Fatal(err)
		}
		defer mine.Close()
		if err := k.Pin("ep-names", mine.Path); err != nil {
			t.Fatal(err)
		}
		defer mustApply(t, k, &plan.Plan{})
		var own net.Listener
		if err := mine.Do(func() (err error) {
			own, err = net.Listen("tcp4", "0.0.0.0:53")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the UDP half would be taken the second time
			_, _, err = k.ListenNames("ep-names", nameServer)
			wantRefusal(t, err, kernel.NameServerTaken)
		}
		own.Close()
		packets, listener, err := k.ListenNames("ep-names", nameServer)
		if err != nil {
			t.Fatal(err)
		}
		packets.Close()
		listener.Close()
		// A namespace whose lo was never up has no address on it.
		if err := mine.Do(func() error { ip(t, "addr flush dev lo"); return nil }); err != nil {
			t.Fatal(err)
		}
		_, _, err = k.ListenNames("ep-names", nameServer)
		wantRefusal(t, err, kernel.LoopbackDown)
		if _, _, err = k.ListenNames("ep-none", nameServer); err == nil || errors.As(err, new(*kernel.Refusal)) {
			t.Errorf("a sandbox that is not there: %v", err)
		}
	})
}
