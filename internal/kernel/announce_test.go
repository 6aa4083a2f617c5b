package kernel_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// listening hears every frame that comes to a namespace's eth0.
func listening(t *testing.T, sandbox string) (frames func() [][]byte) {
	t.Helper()
	s, err := space.Open(sandbox)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var fd int
	if err := s.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() (all [][]byte) {
		buffer := make([]byte, 2000)
		for {
			n, _, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				return all
			}
			all = append(all, bytes.Clone(buffer[:n]))
		}
	}
}

// An address that moves to another device is found there at once by a neighbour who
// remembers the first, and is announced three times.
func TestAnnouncement(t *testing.T) {
	inHost(t, func() {
		k, err := kernel.New(runDir(t))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		p := bridged{endpoints: 2, mtu: 1500, device: "eth0"}.plan()
		pinWorkloads(t, k, p)
		mustApply(t, k, p)
		wantReach(t, k, bridged{}, true)
		// Endpoint 3 gets the addresses that 2 had.
		v4, v6 := bridged{}.addr(2)
		moved := bridged{endpoints: 3, mtu: 1500, device: "eth0", more: func(e int, s, _ *plan.Sandbox) {
			switch e {
			case 2:
				s.Addrs, s.Routes = nil, nil
			case 3:
				s.Addrs = []plan.Addr{{Link: "eth0", Prefix: v4}, {Link: "eth0", Prefix: v6}}
			}
		}}.plan()
		pinWorkloads(t, k, moved)
		frames := listening(t, k.Path(bridgedEndpoint(1)))
		report := k.Apply(t.Context(), moved)
		if len(report.Failed) > 0 {
			t.Fatal(report.Failed)
		}
		third, _ := bridged{}.addr(3)
		mac := plan.BridgedMAC(third.Addr())
		mended := func() bool {
			known, err := in(t, k, bridgedEndpoint(1), "ip", "neighbour", "show")
			if err != nil {
				t.Fatal(err)
			}
			right := 0
			for _, at := range []netip.Addr{v4.Addr(), v6.Addr()} {
				if strings.Contains(known, fmt.Sprintf("%s dev eth0 lladdr %s", at, mac)) {
					right++
				}
			}
			return right == 2
		}
		began := time.Now()
		for !mended() {
			if time.Since(began) > 500*time.Millisecond {
				known, _ := in(t, k, bridgedEndpoint(1), "ip", "neighbour", "show")
				t.Fatalf("half a second later the neighbour knows\n%s", known)
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("mended after %s", time.Since(began))
		arps, advertisements := 0, 0
		for range 30 {
			for _, f := range frames() {
				switch {
				case len(f) >= 42 && f[13] == 6 && f[12] == 8 && bytes.Equal(f[28:32], v4.Addr().AsSlice()) && bytes.Equal(f[38:42], v4.Addr().AsSlice()):
					arps++
				case len(f) >= 78 && f[54] == 136 && bytes.Equal(f[62:78], v6.Addr().AsSlice()) && bytes.Equal(f[:2], []byte{0x33, 0x33}):
					advertisements++
				}
			}
			if arps >= 3 && advertisements >= 3 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if arps < 2 || advertisements < 2 { // the first may be lost while the bridge gets its port
			t.Errorf("heard %d gratuitous ARP requests and %d advertisements of 3", arps, advertisements)
		}
		t.Logf("heard %d gratuitous ARP requests and %d advertisements", arps, advertisements)
		mustApply(t, k, moved)
		mustApply(t, k, &plan.Plan{})
	})
}
