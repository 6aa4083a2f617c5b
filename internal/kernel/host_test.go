package kernel_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// ip runs iproute2 in the calling thread's namespace.
func ip(t *testing.T, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.TrimSpace(line), err, out)
		}
	}
}

func newKernel(t *testing.T) *kernel.Kernel {
	t.Helper()
	k, err := kernel.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantRefusal(t *testing.T, err error, reason plan.Reason) {
	t.Helper()
	var refusal *kernel.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason || refusal.Do == "" {
		t.Errorf("got error %v, want a refusal %s that says what to do", err, reason)
	}
}

func TestUnderlay(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		_, _, err := k.Underlay(netip.Addr{})
		wantRefusal(t, err, kernel.NoUnderlay)
		ip(t, `link add eth0 mtu 1400 type veth peer name far
			addr add 192.0.2.11/24 dev eth0
			addr add 192.0.2.99/24 dev eth0
			link set eth0 up
			link set far up
			route add default via 192.0.2.1 src 192.0.2.11`)
		addr, mtu, err := k.Underlay(netip.Addr{})
		if err != nil || addr.String() != "192.0.2.11" || mtu != 1400 {
			t.Errorf("found %s mtu %d, %v; want 192.0.2.11 mtu 1400", addr, mtu, err)
		}
		addr, mtu, err = k.Underlay(netip.MustParseAddr("192.0.2.99"))
		if err != nil || addr.String() != "192.0.2.99" || mtu != 1400 {
			t.Errorf("asked for 192.0.2.99, found %s mtu %d, %v", addr, mtu, err)
		}
		_, _, err = k.Underlay(netip.MustParseAddr("198.51.100.1"))
		wantRefusal(t, err, kernel.NoUnderlay)
	})
}

// A bridge with real clients behind it is never taken for one whose addresses
// mean nothing elsewhere: its clients' addresses would be lost.
func TestOwnBridges(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		ip(t, `link add docker0 type bridge
			addr add 172.17.0.1/16 dev docker0
			link add veth1 type veth peer name veth1p
			link set veth1 master docker0
			link add bare type bridge
			link set bare up
			link add uplinked type bridge
			addr add 192.0.2.11/24 dev uplinked
			link set uplinked up
			route add default via 192.0.2.1 dev uplinked
			link add carded type bridge
			addr add 198.51.100.1/24 dev carded
			link add card type vxlan id 5 dstport 4790 local 192.0.2.11
			link set card master carded`)
		own, err := k.OwnBridges()
		if err != nil || !slices.Equal(own, []string{"docker0"}) {
			t.Errorf("own bridges: %v, %v; want docker0 alone", own, err)
		}
	})
}

func TestPinRefuses(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		plain := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(plain, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		pipe := filepath.Join(t.TempDir(), "pipe") // opening it for reading would never end
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{plain, pipe, filepath.Join(t.TempDir(), "absent"), "/proc/self/ns/mnt", "/dev/null", "/proc/thread-self/ns/net"} {
			wantRefusal(t, k.Pin("ep-d000000000000001", path), kernel.BadNamespace)
		}
		wantRefusal(t, k.PinPID("ep-d000000000000001", 1<<22), kernel.BadNamespace)
		if _, err := os.Lstat(k.Path("ep-d000000000000001")); !os.IsNotExist(err) {
			t.Errorf("a refused pin left a file: %v", err)
		}
		w, err := kernel.NewWorkload()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if err := k.Pin("ep-d000000000000001", w.Path()); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, k.Pin("ep-d000000000000002", w.Path()), kernel.BadNamespace)
		if !k.Pinned("ep-d000000000000001") || k.Pinned("ep-d000000000000002") {
			t.Error("the first sandbox should be pinned and the second not")
		}
		mustApply(t, k, &plan.Plan{}) // a sandbox that no plan has is let go
		if k.Pinned("ep-d000000000000001") {
			t.Error("the sandbox is still pinned")
		}
	})
}

func TestWorkload(t *testing.T) {
	w, err := kernel.NewWorkload()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, c := range []struct {
		script string
		want   int
	}{
		{"exit 7", 7},
		{"kill -TERM $$", 128 + int(syscall.SIGTERM)},
		// lo is up
		{`ip -o link show lo | grep -q UP`, 0},
	} {
		got, err := w.Run(t.Context(), []string{"sh", "-c", c.script}, nil)
		if err != nil || got != c.want {
			t.Errorf("%s: status %d, %v; want %d", c.script, got, err, c.want)
		}
	}
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGUSR1
	got, err := w.Run(t.Context(), []string{"sh", "-c", "trap 'exit 3' USR1; while :; do sleep 0.01; done"}, signals)
	if err != nil || got != 3 && got != 128+int(syscall.SIGUSR1) {
		t.Errorf("signal: status %d, %v", got, err)
	}
	for range 20 { // that it was not started and that it has ended come at the same time
		if _, err := w.Run(t.Context(), []string{"/does/not/exist"}, nil); err == nil || !strings.HasPrefix(err.Error(), "start /does/not/exist: ") {
			t.Errorf("a command that does not exist: %v", err)
		}
	}
	wantRefusal(t, kernel.LookPath("no-such-command"), kernel.NoCommand)
	if err := kernel.LookPath("sh"); err != nil {
		t.Error(err)
	}
}

func TestWatchPID(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, err := kernel.WatchPID(t.Context(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("told to have ended while it runs")
	default:
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the end of the process was not seen")
	}
	gone, err := kernel.WatchPID(context.Background(), cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	<-gone
}

// A host that learns its routes from a router goes on to when it forwards itself;
// what no router is behind never begins to listen.
func TestAdvertised(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		ip(t, `link add docker0 type bridge
			link add card type vxlan id 5 dstport 4790 local 192.0.2.11
			link add deaf type vxlan id 6 dstport 4790 local 192.0.2.11
			link add veth1 type veth peer name veth1p`)
		if out, err := exec.Command("sysctl", "-qw", "net.ipv6.conf.card.accept_ra=1", "net.ipv6.conf.deaf.accept_ra=0", "net.ipv6.conf.all.forwarding=0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		cards, err := k.Advertised()
		if err != nil || !slices.Equal(cards, []string{"card"}) {
			t.Errorf("devices that live on advertisements: %v, %v; want card alone", cards, err)
		}
		if out, err := exec.Command("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if cards, err := k.Advertised(); err != nil || len(cards) > 0 {
			t.Errorf("a host that forwards listens to nobody as it is: %v, %v", cards, err)
		}
	})
}
