package kernel_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os/exec"
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

// inWorkload runs f with a sandbox ep-names on a host of its own.
func inWorkload(t *testing.T, f func(k *kernel.Kernel, workload *space.Space)) {
	t.Helper()
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		workload, err := space.New(filepath.Join(t.TempDir(), "names"))
		if err != nil {
			t.Fatal(err)
		}
		defer workload.Close()
		if err := k.Pin("ep-names", workload.Path); err != nil {
			t.Fatal(err)
		}
		defer func() {
			mustApply(t, k, &plan.Plan{})
			wantNoNamesTable(t, workload)
		}()
		f(k, workload)
	})
}

func wantNoNamesTable(t *testing.T, s *space.Space) {
	t.Helper()
	var out []byte
	if err := s.Do(func() (err error) { out, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); return err }); err != nil || len(out) > 0 {
		t.Errorf("the workload's namespace has rules: %s, %v", out, err)
	}
}

// wantNames asks at the name server's address by both transports.
func wantNames(t *testing.T, s *space.Space, udp, tcp string) {
	t.Helper()
	for network, want := range map[string]string{"udp4": udp, "tcp4": tcp} {
		if got, err := heardNames(s, network); got != want {
			t.Errorf("%s: %q, %v; want %q", network, got, err, want)
		}
	}
}

func TestListenNames(t *testing.T) {
	inWorkload(t, func(k *kernel.Kernel, workload *space.Space) {
		packets, listener, err := k.ListenNames("ep-names", nameServer)
		if err != nil {
			t.Fatal(err)
		}
		echoNames(t, packets, listener)
		wantNames(t, workload, "udp", "tcp")
		wantNoNamesTable(t, workload)
		if conn, err := net.DialTimeout("tcp4", nameServer.String(), time.Second); err == nil {
			conn.Close()
			t.Error("the sockets are in the host's namespace too")
		}
		packets.Close()
		listener.Close()
		if packets, listener, err = k.ListenNames("ep-names", nameServer); err != nil {
			t.Fatalf("at once after the last ones, whose connections still end: %v", err)
		}
		packets.Close()
		listener.Close()
		if _, _, err = k.ListenNames("ep-none", nameServer); err == nil || errors.As(err, new(*kernel.Refusal)) {
			t.Errorf("a sandbox that is not there: %v", err)
		}
		// A namespace whose lo was never up has no address on it.
		if err := workload.Do(func() error { ip(t, "addr flush dev lo"); return nil }); err != nil {
			t.Fatal(err)
		}
		for _, listen := range []func(string, netip.AddrPort) (net.PacketConn, net.Listener, error){k.ListenNames, k.ListenNamesAside} {
			_, _, err = listen("ep-names", nameServer)
			wantRefusal(t, err, kernel.LoopbackDown)
		}
	})
}

// A server that has no processor for a moment finds what was asked meanwhile.
func TestNamesWait(t *testing.T) {
	const questions = 2000 // the kernel's own choice of a queue holds about 256
	for name, listen := range map[string]func(*kernel.Kernel) (net.PacketConn, net.Listener, error){
		"at the port": func(k *kernel.Kernel) (net.PacketConn, net.Listener, error) {
			return k.ListenNames("ep-names", nameServer)
		},
		"aside": func(k *kernel.Kernel) (net.PacketConn, net.Listener, error) {
			return k.ListenNamesAside("ep-names", nameServer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorkload(t, func(k *kernel.Kernel, workload *space.Space) {
				packets, listener, err := listen(k)
				if err != nil {
					t.Fatal(err)
				}
				defer packets.Close()
				defer listener.Close()
				if err := workload.Do(func() error { return sendNumbered(questions) }); err != nil {
					t.Fatal(err)
				}
				// Over loopback whatever is to arrive has arrived when the sender returns.
				packets.SetReadDeadline(time.Now().Add(5 * time.Second))
				buf := make([]byte, 64)
				for i := range questions {
					if n, _, err := packets.ReadFrom(buf); err != nil || binary.BigEndian.Uint16(buf) != uint16(i) {
						t.Fatalf("question %d of %d: %x, %v", i, questions, buf[:n], err)
					}
				}
			})
		})
	}
}

// sendNumbered asks the name server, in messages as long as a question is.
func sendNumbered(n int) error {
	conn, err := net.Dial("udp4", nameServer.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	var question [30]byte
	for i := range n {
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(i)), question[:]...)); err != nil {
			return err
		}
	}
	return nil
}

// ownServer is a name server of the workload, on all addresses.
func ownServer(t *testing.T, s *space.Space) (net.PacketConn, net.Listener) {
	t.Helper()
	var packets net.PacketConn
	var listener net.Listener
	if err := s.Do(func() (err error) {
		if packets, err = net.ListenPacket("udp4", "0.0.0.0:53"); err == nil {
			listener, err = net.Listen("tcp4", "0.0.0.0:53")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return packets, listener
}

// A workload that is a name server itself and ours are beside each other, whoever came first.
func TestListenNamesBesideAServer(t *testing.T) {
	for name, listen := range map[string]func(*testing.T, *kernel.Kernel, *space.Space) (net.PacketConn, net.Listener, error){
		"it came first": func(t *testing.T, k *kernel.Kernel, s *space.Space) (net.PacketConn, net.Listener, error) {
			t.Helper()
			own, listener := ownServer(t, s)
			t.Cleanup(func() { own.Close(); listener.Close() })
			return k.ListenNames("ep-names", nameServer)
		},
		"by TCP alone": func(_ *testing.T, k *kernel.Kernel, s *space.Space) (p net.PacketConn, l net.Listener, err error) {
			var listener net.Listener
			if err := s.Do(func() (err error) { listener, err = net.Listen("tcp4", "0.0.0.0:53"); return err }); err != nil {
				return nil, nil, err
			}
			t.Cleanup(func() { listener.Close() })
			return k.ListenNames("ep-names", nameServer)
		},
		"it comes later": func(t *testing.T, k *kernel.Kernel, s *space.Space) (net.PacketConn, net.Listener, error) {
			t.Helper()
			packets, listener, err := k.ListenNamesAside("ep-names", nameServer)
			own, other := ownServer(t, s)
			t.Cleanup(func() { own.Close(); other.Close() })
			return packets, listener, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorkload(t, func(k *kernel.Kernel, workload *space.Space) {
				for range 2 { // the second leads away from the ports of the first
					packets, listener, err := listen(t, k, workload)
					if err != nil {
						t.Fatal(err)
					}
					echoNames(t, packets, listener)
					wantNames(t, workload, "udp", "tcp")
					packets.Close()
					listener.Close()
					listen = func(*testing.T, *kernel.Kernel, *space.Space) (net.PacketConn, net.Listener, error) {
						return k.ListenNamesAside("ep-names", nameServer)
					}
				}
			})
		})
	}
	inWorkload(t, func(k *kernel.Kernel, workload *space.Space) {
		packets, listener, err := k.ListenNamesAside("ep-names", nameServer)
		if err != nil {
			t.Fatal(err)
		}
		packets.Close()
		listener.Close()
		if packets, listener, err = k.ListenNames("ep-names", nameServer); err != nil {
			t.Fatal(err)
		}
		defer packets.Close()
		defer listener.Close()
		echoNames(t, packets, listener)
		wantNames(t, workload, "udp", "tcp")
		wantNoNamesTable(t, workload)
	})
}
